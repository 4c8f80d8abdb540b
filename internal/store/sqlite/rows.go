package sqlite

import (
	"encoding/json"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/sqlite/sqlc"
)

// micros writes a time as the tables hold it: microseconds since 1970, 0 for the zero time. Nanoseconds would overflow
// outside of 1678 to 2262, and times come from GitLab and from guests.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// microsUp rounds up instead: "before t" and "at or after t" hold for what is stored exactly if they hold against it.
func microsUp(t time.Time) int64 { return micros(t.Add(time.Microsecond - 1)) }

// fromMicros is the inverse of micros.
func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// list is values as JSON, for the queries that take a list; [] means any.
func list[T any, U any](values []T, as func(T) U) string {
	plain := make([]U, len(values))
	for i, v := range values {
		plain[i] = as(v)
	}
	text, _ := json.Marshal(plain) // numbers and strings always have a JSON form
	return string(text)
}

func each[T any, U any](rows []T, as func(T) U) []U {
	out := make([]U, len(rows))
	for i, r := range rows {
		out[i] = as(r)
	}
	return out
}

func runnerFromRow(r sqlc.Runner) firerunner.Runner {
	return firerunner.Runner{
		ID:        r.ID,
		Demand:    firerunner.Demand{ProjectID: r.ProjectID, Tags: firerunner.TagSet(r.Tags)},
		Profile:   r.Profile,
		Size:      firerunner.Size{VCPUs: int(r.VCPUs), MemoryMiB: int(r.MemoryMiB), DiskMiB: int(r.DiskMiB)},
		Image:     r.Image,
		State:     firerunner.State(r.State),
		Desired:   firerunner.Desired(r.Desired),
		Outcome:   firerunner.Outcome(r.Outcome),
		Reason:    firerunner.Reason(r.Reason),
		Message:   r.Message,
		Host:      r.Host,
		GitLabID:  r.GitLabID,
		JobID:     r.JobID,
		Report:    r.Report,
		Version:   r.Version,
		CreatedAt: fromMicros(r.CreatedAt),
		MovedAt:   fromMicros(r.MovedAt),
		Deadline:  fromMicros(r.Deadline),
		Address:   fromAddr(r.Address),
	}
}

func rowFromRunner(r firerunner.Runner) sqlc.Runner {
	return sqlc.Runner{
		ID:        r.ID,
		ProjectID: r.Demand.ProjectID,
		Tags:      string(r.Demand.Tags),
		Profile:   r.Profile,
		VCPUs:     int64(r.Size.VCPUs),
		MemoryMiB: int64(r.Size.MemoryMiB),
		DiskMiB:   int64(r.Size.DiskMiB),
		Image:     r.Image,
		State:     int64(r.State),
		Desired:   string(r.Desired),
		Outcome:   string(r.Outcome),
		Reason:    string(r.Reason),
		Message:   r.Message,
		Host:      r.Host,
		GitLabID:  r.GitLabID,
		JobID:     r.JobID,
		Report:    r.Report,
		Version:   r.Version,
		CreatedAt: micros(r.CreatedAt),
		MovedAt:   micros(r.MovedAt),
		Deadline:  micros(r.Deadline),
		Address:   addr(r.Address),
	}
}

func updateFromRow(r sqlc.Runner) sqlc.RunnerUpdateParams {
	return sqlc.RunnerUpdateParams{
		ID: r.ID, ProjectID: r.ProjectID, Tags: r.Tags, Profile: r.Profile,
		VCPUs: r.VCPUs, MemoryMiB: r.MemoryMiB, DiskMiB: r.DiskMiB, Image: r.Image,
		State: r.State, Desired: r.Desired, Outcome: r.Outcome, Reason: r.Reason, Message: r.Message,
		Host: r.Host, GitLabID: r.GitLabID, JobID: r.JobID, Report: r.Report, Version: r.Version,
		CreatedAt: r.CreatedAt, MovedAt: r.MovedAt, Deadline: r.Deadline, Address: r.Address,
	}
}

func jobFromRow(r sqlc.Job) firerunner.Job {
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
		CreatedAt:   fromMicros(r.CreatedAt),
		QueuedAt:    fromMicros(r.QueuedAt),
		StartedAt:   fromMicros(r.StartedAt),
		FinishedAt:  fromMicros(r.FinishedAt),
		SeenAt:      fromMicros(r.SeenAt),
	}
}

func rowFromJob(j firerunner.Job) sqlc.Job {
	return sqlc.Job{
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
		Ours:        bit(j.Ours),
		Profile:     j.Profile,
		VCPUs:       int64(j.Size.VCPUs),
		MemoryMiB:   int64(j.Size.MemoryMiB),
		DiskMiB:     int64(j.Size.DiskMiB),
		Refused:     string(j.Refused),
		Message:     j.Message,
		CreatedAt:   micros(j.CreatedAt),
		QueuedAt:    micros(j.QueuedAt),
		StartedAt:   micros(j.StartedAt),
		FinishedAt:  micros(j.FinishedAt),
		SeenAt:      micros(j.SeenAt),
	}
}

func eventFromRow(r sqlc.Event) firerunner.Event {
	return firerunner.Event{
		ID:        r.ID,
		At:        fromMicros(r.At),
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

func insertFromEvent(e firerunner.Event) sqlc.EventInsertParams {
	return sqlc.EventInsertParams{
		At:        micros(e.At),
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
	}
}

func projectFromRow(r sqlc.Project) firerunner.Project {
	return firerunner.Project{ID: r.ID, Path: r.Path, SeenAt: fromMicros(r.SeenAt)}
}
