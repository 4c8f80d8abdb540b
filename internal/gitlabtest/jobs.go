package gitlabtest

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Status is a job's or a pipeline's status, in GitLab's words.
// Source: https://docs.gitlab.com/ci/jobs/#available-job-statuses
type Status string

// The statuses that the emulator knows.
const (
	StatusCreated   Status = "created"
	StatusPending   Status = "pending"
	StatusRunning   Status = "running"
	StatusCanceling Status = "canceling" // cancelled, but its runner still cleans up
	StatusSuccess   Status = "success"
	StatusFailed    Status = "failed"
	StatusCanceled  Status = "canceled"
	StatusSkipped   Status = "skipped"
	StatusManual    Status = "manual"
)

// Finished says that the status never changes again by itself.
func (s Status) Finished() bool {
	return s == StatusSuccess || s == StatusFailed || s == StatusCanceled || s == StatusSkipped
}

// onRunner says that a runner holds the job, and so that the job's token is good.
func (s Status) onRunner() bool { return s == StatusRunning || s == StatusCanceling }

// Job is a snapshot of one job, with what the emulator saw of it.
type Job struct {
	ID            int64         `json:"id"`
	Name          string        `json:"name"`
	Stage         string        `json:"stage"`
	Status        Status        `json:"status"`
	ProjectID     int64         `json:"project_id"`
	PipelineID    int64         `json:"pipeline_id"`
	Ref           string        `json:"ref"`
	SHA           string        `json:"sha"`
	Tags          []string      `json:"tags"`
	AllowFailure  bool          `json:"allow_failure"`
	FailureReason string        `json:"failure_reason,omitempty"` // of a failed job, as the runner told it
	ExitCode      *int          `json:"exit_code,omitempty"`
	Timeout       time.Duration `json:"timeout"` // what the runner was told; 0 before the hand-out
	CreatedAt     time.Time     `json:"created_at"`
	QueuedAt      time.Time     `json:"queued_at"`
	StartedAt     time.Time     `json:"started_at"`
	FinishedAt    time.Time     `json:"finished_at"`
	RetryOf       int64         `json:"retry_of,omitempty"` // the job that this one is a retry of
	RetriesCount  int           `json:"retries_count"`
	Retried       bool          `json:"retried"` // a newer job took its place

	// RunnerID is the runner that took the job; 0 before. It stays after that runner is deleted.
	RunnerID int64 `json:"runner_id,omitempty"`
	// Handouts is every time the job was given away in a 201. The emulator, like GitLab, does it at
	// most once; what must hold beyond it is that the taker ran it once.
	Handouts []Handout `json:"handouts"`
	// Updates counts PUT /jobs/:id by the state they carried, accepted or not.
	Updates map[string]int `json:"updates,omitempty"`
	// Rejected counts PUT, PATCH and artifact calls for this job that were answered with an error.
	Rejected int `json:"rejected"`
	// TraceBytes is the length of the job log held now.
	TraceBytes int        `json:"trace_bytes"`
	Artifacts  []Artifact `json:"artifacts,omitempty"`
}

// Handout is one POST /jobs/request that was answered with this job.
type Handout struct {
	RunnerID int64     `json:"runner_id"`
	SystemID string    `json:"system_id"`
	At       time.Time `json:"at"`
}

type job struct {
	Job
	project   *project
	pipeline  *pipeline
	spec      *JobSpec
	stage     int // index in the file's stages
	protected bool
	token     string
	trace     []byte
	runner    *runner
	graceful  bool      // the runner said that it can cancel gracefully
	heardAt   time.Time // of its runner, last
}

func (j *job) snapshot() Job {
	out := j.Job
	out.Tags, out.Handouts, out.Artifacts = slices.Clone(j.Tags), slices.Clone(j.Handouts), slices.Clone(j.Artifacts)
	if j.ExitCode != nil {
		code := *j.ExitCode
		out.ExitCode = &code
	}
	out.Updates = make(map[string]int, len(j.Updates))
	for k, v := range j.Updates {
		out.Updates[k] = v
	}
	out.TraceBytes = len(j.trace)
	return out
}

// liveRunner is the job's runner as GitLab shows it: none before the hand-out, none once it is deleted.
func (j *job) liveRunner() *runner {
	if j.runner == nil || j.runner.deleted {
		return nil
	}
	return j.runner
}

// JobFilter chooses jobs; zero fields match all.
type JobFilter struct {
	ProjectID, PipelineID int64
	Name                  string
	Statuses              []Status
}

// Jobs are the jobs that match, oldest first, retried ones included.
func (s *Server) Jobs(f JobFilter) []Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []Job{}
	for _, j := range s.state.jobOrder {
		if (f.ProjectID == 0 || f.ProjectID == j.ProjectID) && (f.PipelineID == 0 || f.PipelineID == j.PipelineID) &&
			(f.Name == "" || f.Name == j.Name) && (len(f.Statuses) == 0 || slices.Contains(f.Statuses, j.Status)) {
			out = append(out, j.snapshot())
		}
	}
	return out
}

// Job is one job; false if there is none.
func (s *Server) Job(id int64) (Job, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.state.jobs[id]
	if j == nil {
		return Job{}, false
	}
	return j.snapshot(), true
}

// Trace is the job's log as far as it arrived.
func (s *Server) Trace(id int64) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.state.jobs[id]; j != nil {
		return string(j.trace)
	}
	return ""
}

// JobToken is the job's CI_JOB_TOKEN. It is good only while the job is on a runner.
func (s *Server) JobToken(id int64) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.state.jobs[id]; j != nil {
		return j.token
	}
	return ""
}

// TruncateTrace forgets the log from length on, as a GitLab that lost chunks does: the next PATCH is
// answered 416, or the final PUT 412.
func (s *Server) TruncateTrace(id int64, length int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.state.jobs[id]; j != nil && length >= 0 && length < len(j.trace) {
		j.trace = j.trace[:length]
		s.touch()
	}
}

// WaitJob waits until the job has one of the statuses; with none given, until it is finished.
func (s *Server) WaitJob(ctx context.Context, id int64, statuses ...Status) (Job, error) {
	return s.WaitJobFunc(ctx, id, func(j Job) bool {
		if len(statuses) == 0 {
			return j.Status.Finished()
		}
		return slices.Contains(statuses, j.Status)
	})
}

// WaitJobFunc waits until done says yes to a snapshot of the job.
func (s *Server) WaitJobFunc(ctx context.Context, id int64, done func(Job) bool) (Job, error) {
	var last Job
	err := s.await(ctx, func() bool {
		j := s.state.jobs[id]
		if j == nil {
			return false
		}
		last = j.snapshot()
		return done(last)
	})
	if err != nil {
		return last, fmt.Errorf("waiting for job %d, now %q: %w", id, last.Status, err)
	}
	return last, nil
}

// WaitTrace waits until the job's log contains text.
func (s *Server) WaitTrace(ctx context.Context, id int64, text string) error {
	err := s.await(ctx, func() bool {
		j := s.state.jobs[id]
		return j != nil && containsBytes(j.trace, text)
	})
	if err != nil {
		return fmt.Errorf("waiting for %q in the log of job %d: %w", text, id, err)
	}
	return nil
}

// jobByToken finds the job whose token this is. The token dies with the job's run.
// Source: https://docs.gitlab.com/ci/jobs/ci_job_token/
func (s *Server) jobByToken(token string) *job {
	if j := s.state.jobTokens[token]; j != nil && j.Status.onRunner() {
		return j
	}
	return nil
}
