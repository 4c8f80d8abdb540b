package gitlabtest

import (
	"encoding/json"
	"time"
)

// The Job Hook's payload, field for field. It has no tags of the job: only a GET of the job tells them.
// Source: https://docs.gitlab.com/user/project/integrations/webhook_events/#job-events
type hookEvent struct {
	ObjectKind         string         `json:"object_kind"`
	Ref                string         `json:"ref"`
	Tag                bool           `json:"tag"` // of a git tag; nothing to do with runner tags
	BeforeSHA          string         `json:"before_sha"`
	SHA                string         `json:"sha"`
	RetriesCount       int            `json:"retries_count"`
	BuildID            int64          `json:"build_id"`
	BuildName          string         `json:"build_name"`
	BuildStage         string         `json:"build_stage"`
	BuildStatus        Status         `json:"build_status"`
	BuildCreatedAt     any            `json:"build_created_at"`
	BuildStartedAt     any            `json:"build_started_at"`
	BuildFinishedAt    any            `json:"build_finished_at"`
	BuildCreatedAtISO  any            `json:"build_created_at_iso"`
	BuildStartedAtISO  any            `json:"build_started_at_iso"`
	BuildFinishedAtISO any            `json:"build_finished_at_iso"`
	BuildDuration      any            `json:"build_duration"`
	BuildQueued        any            `json:"build_queued_duration"`
	BuildAllowFailure  bool           `json:"build_allow_failure"`
	BuildFailureReason string         `json:"build_failure_reason"`
	PipelineID         int64          `json:"pipeline_id"`
	Runner             *hookRunner    `json:"runner"` // null until picked, and after the runner was deleted
	ProjectID          int64          `json:"project_id"`
	ProjectName        string         `json:"project_name"`
	User               hookUser       `json:"user"`
	Commit             hookCommit     `json:"commit"`
	Repository         hookRepository `json:"repository"`
	Project            hookProject    `json:"project"`
	Environment        any            `json:"environment"`
}

type hookRunner struct {
	ID          int64    `json:"id"`
	Description string   `json:"description"`
	RunnerType  string   `json:"runner_type"`
	Active      bool     `json:"active"`
	IsShared    bool     `json:"is_shared"`
	Tags        []string `json:"tags"`
}

type hookUser struct {
	ID        int64  `json:"id"`
	Name      string `json:"name"`
	Username  string `json:"username"`
	AvatarURL any    `json:"avatar_url"`
	Email     string `json:"email"`
}

type hookCommit struct {
	ID            int64  `json:"id"` // the pipeline's
	Name          any    `json:"name"`
	SHA           string `json:"sha"`
	Message       string `json:"message"`
	AuthorName    string `json:"author_name"`
	AuthorEmail   string `json:"author_email"`
	AuthorURL     string `json:"author_url"`
	Status        Status `json:"status"`
	Duration      any    `json:"duration"`
	StartedAt     any    `json:"started_at"`
	FinishedAt    any    `json:"finished_at"`
	StartedAtISO  any    `json:"started_at_iso"`
	FinishedAtISO any    `json:"finished_at_iso"`
}

type hookRepository struct {
	Name            string `json:"name"`
	URL             string `json:"url"`
	Description     any    `json:"description"`
	Homepage        string `json:"homepage"`
	GitHTTPURL      string `json:"git_http_url"`
	GitSSHURL       string `json:"git_ssh_url"`
	VisibilityLevel int    `json:"visibility_level"`
}

type hookProject struct {
	ID                int64  `json:"id"`
	Name              string `json:"name"`
	Description       any    `json:"description"`
	WebURL            string `json:"web_url"`
	AvatarURL         any    `json:"avatar_url"`
	GitSSHURL         string `json:"git_ssh_url"`
	GitHTTPURL        string `json:"git_http_url"`
	Namespace         string `json:"namespace"`
	VisibilityLevel   int    `json:"visibility_level"`
	PathWithNamespace string `json:"path_with_namespace"`
	DefaultBranch     string `json:"default_branch"`
	CIConfigPath      any    `json:"ci_config_path"`
}

// hookTime is the older form of times in hooks: "2026-11-23 08:25:24 UTC".
func hookTime(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

func hookTimeISO(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.RFC3339)
}

// jobEvent is the body for the job as it is now. The caller holds mu.
func (s *Server) jobEvent(j *job) []byte {
	p, pl := j.project, j.pipeline
	e := hookEvent{
		ObjectKind: "build", Ref: j.Ref, BeforeSHA: pl.BeforeSHA, SHA: j.SHA, RetriesCount: j.RetriesCount,
		BuildID: j.ID, BuildName: j.Name, BuildStage: j.Stage, BuildStatus: j.Status,
		BuildCreatedAt: hookTime(j.CreatedAt), BuildStartedAt: hookTime(j.StartedAt), BuildFinishedAt: hookTime(j.FinishedAt),
		BuildCreatedAtISO: hookTimeISO(j.CreatedAt), BuildStartedAtISO: hookTimeISO(j.StartedAt), BuildFinishedAtISO: hookTimeISO(j.FinishedAt),
		BuildDuration: seconds(j.StartedAt, j.FinishedAt), BuildQueued: seconds(j.QueuedAt, j.StartedAt),
		BuildAllowFailure: j.AllowFailure, BuildFailureReason: "unknown_failure", // also when nothing failed
		PipelineID: pl.ID, ProjectID: p.ID, ProjectName: p.displayName(),
		User: hookUser{ID: userID, Name: userFullName, Username: userName, Email: "[REDACTED]"},
		Commit: hookCommit{
			ID: pl.ID, SHA: pl.SHA, Message: pl.commit.message + "\n", AuthorName: authorName, AuthorEmail: authorEmail,
			AuthorURL: s.external + "/" + userName, Status: pl.Status, Duration: wholeSeconds(pl.StartedAt, pl.FinishedAt),
			StartedAt: hookTime(pl.StartedAt), FinishedAt: hookTime(pl.FinishedAt),
			StartedAtISO: hookTimeISO(pl.StartedAt), FinishedAtISO: hookTimeISO(pl.FinishedAt),
		},
		Repository: hookRepository{
			Name: p.Name, URL: p.sshURL(), Homepage: p.WebURL, GitHTTPURL: p.CloneURL, GitSSHURL: p.sshURL(),
		},
		Project: hookProject{
			ID: p.ID, Name: p.Name, WebURL: p.WebURL, GitSSHURL: p.sshURL(), GitHTTPURL: p.CloneURL, Namespace: p.Namespace,
			PathWithNamespace: p.Path, DefaultBranch: p.DefaultBranch,
		},
	}
	if j.FailureReason != "" {
		e.BuildFailureReason = j.FailureReason
	}
	if r := j.liveRunner(); r != nil {
		tags := r.Tags
		if tags == nil {
			tags = []string{}
		}
		e.Runner = &hookRunner{
			ID: r.ID, Description: r.Description, RunnerType: r.Type, Active: !r.Paused, IsShared: r.Type == "instance_type", Tags: tags,
		}
	}
	body, err := json.Marshal(e)
	if err != nil { // nothing in it can fail
		panic(err)
	}
	return body
}
