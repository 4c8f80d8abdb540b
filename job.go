package firerunner

import (
	"sort"
	"strings"
	"time"
)

// JobStatus is a job's status in GitLab's words (https://docs.gitlab.com/api/jobs/).
type JobStatus string

// The statuses that matter here. GitLab has more (created, preparing, manual, ...): they all rank before pending.
const (
	JobPending   JobStatus = "pending"
	JobRunning   JobStatus = "running"
	JobCanceling JobStatus = "canceling"
	JobSuccess   JobStatus = "success"
	JobFailed    JobStatus = "failed"
	JobCanceled  JobStatus = "canceled"
	JobSkipped   JobStatus = "skipped"
)

// Rank orders statuses in time: a job as seen never goes to a lower rank, because hooks and answers come late
// and out of order.
func (s JobStatus) Rank() int {
	switch s {
	case JobPending:
		return 20
	case JobRunning:
		return 30
	case JobCanceling:
		return 35
	case JobSuccess, JobFailed, JobCanceled, JobSkipped:
		return 40
	}
	return 10
}

// Final reports whether the job has ended.
func (s JobStatus) Final() bool { return s.Rank() >= 40 }

// Job is GitLab's CI job as GitLab told it last.
type Job struct {
	ID          int64
	ProjectID   int64
	ProjectPath string // group/name; for people
	PipelineID  int64
	Name        string // user text: data, never a path or a command
	Stage       string
	Ref         string
	Status      JobStatus
	Failure     string // GitLab's failure_reason; only for failed
	Tags        TagSet
	GitLabID    int64  // id of the GitLab runner that has it; 0 = none yet
	RunnerID    string // our runner that has it; empty if none of ours
	Ours        bool   // one of its tags is a size tag or a profile's tag
	Profile     string // by its tags; only if Ours and not refused
	Size        Size   // by its tags; only if Ours and not refused
	Refused     Reason // why it cannot be had; empty = it can
	Message     string // the refusal in words
	CreatedAt   time.Time
	QueuedAt    time.Time // when it became pending; zero if unknown
	StartedAt   time.Time
	FinishedAt  time.Time
	SeenAt      time.Time // when GitLab told us last
}

// Wants reports whether the job needs a runner now.
func (j Job) Wants() bool {
	return j.Ours && j.Refused == "" && j.Status == JobPending && j.RunnerID == ""
}

// Demand is what the job counts under.
func (j Job) Demand() Demand { return Demand{ProjectID: j.ProjectID, Tags: j.Tags} }

// Merge returns the newer of two sights of one job, field by field: the status never falls, and what is known is
// not forgotten.
func (j Job) Merge(seen Job) Job {
	if seen.Status.Rank() < j.Status.Rank() {
		seen.Status, seen.Failure = j.Status, j.Failure
	}
	if seen.GitLabID == 0 {
		seen.GitLabID = j.GitLabID
	}
	if seen.RunnerID == "" {
		seen.RunnerID = j.RunnerID
	}
	for _, t := range []struct{ to, from *time.Time }{
		{&seen.CreatedAt, &j.CreatedAt},
		{&seen.QueuedAt, &j.QueuedAt},
		{&seen.StartedAt, &j.StartedAt},
		{&seen.FinishedAt, &j.FinishedAt},
	} {
		if t.to.IsZero() {
			*t.to = *t.from
		}
	}
	if seen.SeenAt.Before(j.SeenAt) {
		seen.SeenAt = j.SeenAt
	}
	return seen
}

// TagSet is a set of GitLab tags in canonical form: sorted, without doubles, joined by commas (which a GitLab
// tag cannot contain).
type TagSet string

// NewTagSet makes the canonical form; empty tags are left out.
func NewTagSet(tags ...string) TagSet {
	var clean []string
	seen := map[string]bool{}
	for _, t := range tags {
		for _, part := range strings.Split(t, ",") {
			part = strings.TrimSpace(part)
			if part != "" && !seen[part] {
				seen[part] = true
				clean = append(clean, part)
			}
		}
	}
	sort.Strings(clean)
	return TagSet(strings.Join(clean, ","))
}

// List returns the tags, sorted.
func (t TagSet) List() []string {
	if t == "" {
		return nil
	}
	return strings.Split(string(t), ",")
}

// Demand is the key under which supply and demand are counted: GitLab gives a pending job to any runner of the
// project whose tags fit, so runners and jobs are matched by number and never by name.
type Demand struct {
	ProjectID int64
	Tags      TagSet
}

// Project is a GitLab project that has shown us a job.
type Project struct {
	ID     int64
	Path   string
	SeenAt time.Time // when a hook or a sweep last showed a job of it
}
