package firerunner

import (
	"context"
	"time"
)

// GitLab is what FireRunner asks of GitLab's REST API. Every call has a deadline in its context. Errors carry a
// Code: NotFound (404), Unauthorized (401, 403), Exhausted (429), Unavailable (5xx, no answer).
type GitLab interface {
	// CreateRunner makes a runner that is good for one project and one set of tags. It is never tried twice by
	// itself: after Unavailable the runner may or may not exist, and FindRunners tells.
	CreateRunner(ctx context.Context, r CredentialRequest) (Credential, error)
	// FindRunners returns the runners of a project (0: all that the token may see) whose description begins with
	// prefix.
	FindRunners(ctx context.Context, projectID int64, prefix string) ([]GitLabRunner, error)
	// PauseRunner makes GitLab give the runner no more jobs.
	PauseRunner(ctx context.Context, id int64) error
	// DeleteRunner removes the runner. One that is not there is not an error.
	DeleteRunner(ctx context.Context, id int64) error
	// RunnerJobs returns the jobs that the runner has taken, those that have ended too.
	RunnerJobs(ctx context.Context, id int64) ([]Job, error)
	// Job returns one job with its tags and its runner.
	Job(ctx context.Context, projectID, jobID int64) (Job, error)
	// PendingJobs returns every pending job of a project.
	PendingJobs(ctx context.Context, projectID int64) ([]Job, error)
	// Check asks for the version and the token's scopes. It is the cheapest sign of life.
	Check(ctx context.Context) (GitLabCheck, error)
}

// SystemFailure is GitLab's word for a job that failed because of where it ran, and what users name in retry: when: to have
// it run again (https://docs.gitlab.com/ci/yaml/#retrywhen).
const SystemFailure = "runner_system_failure"

// JobFailer is an extra ability of a GitLab: to speak for a job whose guest cannot any more.
type JobFailer interface {
	// FailJob tells GitLab, with the job's own token, that the job failed as SystemFailure; why becomes a line at
	// the end of its log. It may be done twice. told = false: GitLab takes no word on that job any more, because it has
	// ended or the token is not its. Where the log cannot be written, the job is failed all the same.
	FailJob(ctx context.Context, jobID int64, token Secret, why string) (told bool, err error)
}

// CredentialRequest asks for a runner in GitLab (https://docs.gitlab.com/api/users/#create-a-runner-linked-to-a-user).
type CredentialRequest struct {
	ProjectID   int64
	Tags        TagSet
	Description string        // unique: it is how an orphan is found again
	MaxTimeout  time.Duration // GitLab ends jobs of this runner after it; at least 10 minutes on a real GitLab
}

// Credential is a runner in GitLab and the token that lets a gitlab-runner act as it.
type Credential struct {
	ID    int64
	Token Secret
}

// GitLabRunner is a runner as GitLab lists it.
type GitLabRunner struct {
	ID          int64
	Description string
	Paused      bool
	Status      string // online, offline, stale, never_contacted
}

// GitLabCheck is what Check learned.
type GitLabCheck struct {
	Version string
	Scopes  []string // of the token; nil where GitLab does not say
	User    string
}
