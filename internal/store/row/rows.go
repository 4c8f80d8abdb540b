package row

import (
	"encoding/json"
	"time"

	"github.com/firerunner/firerunner"
)

// Micros writes a time as the tables hold it: microseconds since 1970, 0 for the zero time. Nanoseconds would overflow
// outside of 1678 to 2262, and times come from GitLab and from guests.
func Micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// MicrosUp rounds up instead: "before t" and "at or after t" hold for what is stored exactly if they hold against it.
func MicrosUp(t time.Time) int64 { return Micros(t.Add(time.Microsecond - 1)) }

// FromMicros is the inverse of micros.
func FromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// Bit is truth as the tables hold it.
func Bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// List is values as JSON, for the queries that take a list; [] means any.
func List[T any, U any](values []T, as func(T) U) string {
	plain := make([]U, len(values))
	for i, v := range values {
		plain[i] = as(v)
	}
	text, _ := json.Marshal(plain) // numbers and strings always have a JSON form
	return string(text)
}

// Each converts rows.
func Each[T any, U any](rows []T, as func(T) U) []U {
	out := make([]U, len(rows))
	for i, r := range rows {
		out[i] = as(r)
	}
	return out
}

// Runner is the row as the root package has it.
func (r Runner) Runner() firerunner.Runner {
	return firerunner.Runner{
		ID:         r.ID,
		Demand:     firerunner.Demand{ProjectID: r.ProjectID, Tags: firerunner.TagSet(r.Tags)},
		Profile:    r.Profile,
		Size:       firerunner.Size{VCPUs: int(r.VCPUs), MemoryMiB: int(r.MemoryMiB), DiskMiB: int(r.DiskMiB)},
		Image:      r.Image,
		State:      firerunner.State(r.State),
		Desired:    firerunner.Desired(r.Desired),
		Outcome:    firerunner.Outcome(r.Outcome),
		Reason:     firerunner.Reason(r.Reason),
		Message:    r.Message,
		Host:       r.Host,
		GitLabID:   r.GitLabID,
		JobID:      r.JobID,
		Report:     r.Report,
		Version:    r.Version,
		CreatedAt:  FromMicros(r.CreatedAt),
		MovedAt:    FromMicros(r.MovedAt),
		Deadline:   FromMicros(r.Deadline),
		Address:    fromAddr(r.Address),
		JobKey:     firerunner.JobKey(r.JobKey),
		Controller: r.Controller,
	}
}

// FromRunner is the inverse of Runner.Runner.
func FromRunner(r firerunner.Runner) Runner {
	return storable(Runner{
		ID:         r.ID,
		ProjectID:  r.Demand.ProjectID,
		Tags:       string(r.Demand.Tags),
		Profile:    r.Profile,
		VCPUs:      int64(r.Size.VCPUs),
		MemoryMiB:  int64(r.Size.MemoryMiB),
		DiskMiB:    int64(r.Size.DiskMiB),
		Image:      r.Image,
		State:      int64(r.State),
		Desired:    string(r.Desired),
		Outcome:    string(r.Outcome),
		Reason:     string(r.Reason),
		Message:    r.Message,
		Host:       r.Host,
		GitLabID:   r.GitLabID,
		JobID:      r.JobID,
		Report:     r.Report,
		Version:    r.Version,
		CreatedAt:  Micros(r.CreatedAt),
		MovedAt:    Micros(r.MovedAt),
		Deadline:   Micros(r.Deadline),
		Address:    addr(r.Address),
		JobKey:     string(r.JobKey),
		Controller: r.Controller,
	})
}

// Job is the row as the root package has it.
func (r Job) Job() firerunner.Job {
	return firerunner.Job{
		ID:          r.ID,
		ProjectID:   r.ProjectID,
		ProjectPath: r.ProjectPath,
		PipelineID:  r.PipelineID,
		Name:        r.Name,
		Stage:       r.Stage,
		Ref:         r.Ref,
		Status:      firerunner.JobStatus(r.Status),
		Failure:     r.Failure,
		Tags:        firerunner.TagSet(r.Tags),
		GitLabID:    r.GitLabID,
		RunnerID:    r.RunnerID,
		Ours:        r.Ours != 0,
		Profile:     r.Profile,
		Size:        firerunner.Size{VCPUs: int(r.VCPUs), MemoryMiB: int(r.MemoryMiB), DiskMiB: int(r.DiskMiB)},
		Refused:     firerunner.Reason(r.Refused),
		Message:     r.Message,
		CreatedAt:   FromMicros(r.CreatedAt),
		QueuedAt:    FromMicros(r.QueuedAt),
		StartedAt:   FromMicros(r.StartedAt),
		FinishedAt:  FromMicros(r.FinishedAt),
		SeenAt:      FromMicros(r.SeenAt),
	}
}

// FromJob is the inverse of Job.Job.
func FromJob(j firerunner.Job) Job {
	return storable(Job{
		ID:          j.ID,
		ProjectID:   j.ProjectID,
		ProjectPath: j.ProjectPath,
		PipelineID:  j.PipelineID,
		Name:        j.Name,
		Stage:       j.Stage,
		Ref:         j.Ref,
		Status:      string(j.Status),
		Rank:        int64(j.Status.Rank()),
		Failure:     j.Failure,
		Tags:        string(j.Tags),
		GitLabID:    j.GitLabID,
		RunnerID:    j.RunnerID,
		Ours:        Bit(j.Ours),
		Profile:     j.Profile,
		VCPUs:       int64(j.Size.VCPUs),
		MemoryMiB:   int64(j.Size.MemoryMiB),
		DiskMiB:     int64(j.Size.DiskMiB),
		Refused:     string(j.Refused),
		Message:     j.Message,
		CreatedAt:   Micros(j.CreatedAt),
		QueuedAt:    Micros(j.QueuedAt),
		StartedAt:   Micros(j.StartedAt),
		FinishedAt:  Micros(j.FinishedAt),
		SeenAt:      Micros(j.SeenAt),
	})
}

// Event is the row as the root package has it.
func (r Event) Event() firerunner.Event {
	return firerunner.Event{
		ID:        r.ID,
		At:        FromMicros(r.At),
		Kind:      firerunner.EventKind(r.Kind),
		RunnerID:  r.RunnerID,
		JobID:     r.JobID,
		ProjectID: r.ProjectID,
		From:      firerunner.State(r.FromState),
		To:        firerunner.State(r.ToState),
		Took:      time.Duration(r.Took),
		Actor:     r.Actor,
		Reason:    firerunner.Reason(r.Reason),
		Message:   r.Message,
	}
}

// FromEvent is the inverse of Event.Event; the ID is not in it.
func FromEvent(e firerunner.Event) Event {
	return storable(Event{
		At:        Micros(e.At),
		Kind:      string(e.Kind),
		RunnerID:  e.RunnerID,
		JobID:     e.JobID,
		ProjectID: e.ProjectID,
		FromState: int64(e.From),
		ToState:   int64(e.To),
		Took:      int64(e.Took),
		Actor:     e.Actor,
		Reason:    string(e.Reason),
		Message:   e.Message,
	})
}

// Project is the row as the root package has it.
func (r Project) Project() firerunner.Project {
	return firerunner.Project{ID: r.ID, Path: r.Path, SeenAt: FromMicros(r.SeenAt)}
}
