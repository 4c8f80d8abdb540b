package gitlabtest

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// The answer to POST /jobs/request. gitlab-runner loses a job whose JSON has a wrong type anywhere.
type wireJob struct {
	ID            int64            `json:"id"`
	Token         string           `json:"token"`
	AllowGitFetch bool             `json:"allow_git_fetch"`
	JobInfo       wireJobInfo      `json:"job_info"`
	GitInfo       wireGitInfo      `json:"git_info"`
	RunnerInfo    wireRunnerInfo   `json:"runner_info"`
	Variables     []wireVariable   `json:"variables"`
	Steps         []wireStep       `json:"steps"`
	Image         *Image           `json:"image"`
	Services      []*Image         `json:"services"`
	Artifacts     []wireArtifact   `json:"artifacts"`
	Cache         []struct{}       `json:"cache"`
	Credentials   []struct{}       `json:"credentials"`
	Dependencies  []wireDependency `json:"dependencies"`
	Features      wireFeatures     `json:"features"`
	Hooks         []struct{}       `json:"hooks"`
}

type wireJobInfo struct {
	ID               int64   `json:"id"`
	Name             string  `json:"name"`
	Stage            string  `json:"stage"`
	PipelineID       int64   `json:"pipeline_id"`
	ProjectID        int64   `json:"project_id"`
	ProjectName      string  `json:"project_name"`
	ProjectFullPath  string  `json:"project_full_path"`
	NamespaceID      int64   `json:"namespace_id"`
	RootNamespaceID  int64   `json:"root_namespace_id"`
	OrganizationID   int64   `json:"organization_id"`
	InstanceID       string  `json:"instance_id"`
	UserID           int64   `json:"user_id"`
	TimeInQueue      float64 `json:"time_in_queue_seconds"`
	RunningOnRunners string  `json:"project_jobs_running_on_instance_runners_count"`
	QueueSize        int     `json:"queue_size"`
	QueueDepth       int     `json:"queue_depth"`
}

type wireGitInfo struct {
	RepoURL          string   `json:"repo_url"`
	RepoObjectFormat string   `json:"repo_object_format"`
	Ref              string   `json:"ref"`
	SHA              string   `json:"sha"`
	BeforeSHA        string   `json:"before_sha"`
	RefType          string   `json:"ref_type"`
	Refspecs         []string `json:"refspecs"`
	Depth            int      `json:"depth"`
	Protected        bool     `json:"protected"`
}

type wireRunnerInfo struct {
	Timeout   int64  `json:"timeout"`
	RunnerURL string `json:"runner_session_url,omitempty"`
}

type wireStep struct {
	Name         string   `json:"name"`
	Script       []string `json:"script"`
	Timeout      int64    `json:"timeout"`
	When         string   `json:"when"`
	AllowFailure bool     `json:"allow_failure"`
}

type wireArtifact struct {
	Name      *string  `json:"name"`
	Untracked bool     `json:"untracked"`
	Paths     []string `json:"paths"`
	Exclude   []string `json:"exclude,omitempty"`
	When      string   `json:"when"`
	ExpireIn  string   `json:"expire_in,omitempty"`
	Type      string   `json:"artifact_type"`
	Format    string   `json:"artifact_format"`
}

type wireDependency struct {
	ID            int64     `json:"id"`
	Name          string    `json:"name"`
	Token         string    `json:"token"`
	ArtifactsFile *wireFile `json:"artifacts_file,omitempty"`
}

type wireFile struct {
	Filename string `json:"filename"`
	Size     int64  `json:"size"`
}

type wireFeatures struct {
	TraceSections     bool     `json:"trace_sections"`
	TokenMaskPrefixes []string `json:"token_mask_prefixes"`
	FailureReasons    []string `json:"failure_reasons"`
}

// failureReasons are those that a runner may report; others arrive as unknown_failure.
var failureReasons = []string{
	"unknown_failure", "script_failure", "runner_system_failure", "job_execution_timeout", "runner_interrupted",
	"image_pull_failure", "runner_configuration_error", "runner_external_dependency_failure",
}

// payload describes a job to the runner that takes it. The caller holds mu.
func (s *Server) payload(j *job) wireJob {
	p, pl, timeout := j.project, j.pipeline, int64(j.Timeout/time.Second)
	w := wireJob{
		ID: j.ID, Token: j.token, AllowGitFetch: true,
		JobInfo: wireJobInfo{
			ID: j.ID, Name: j.Name, Stage: j.Stage, PipelineID: pl.ID, ProjectID: p.ID, ProjectName: p.Name, ProjectFullPath: p.Path,
			NamespaceID: p.group, RootNamespaceID: p.groupIDs[0], OrganizationID: 1, InstanceID: "emulated", UserID: userID,
			TimeInQueue: j.StartedAt.Sub(j.QueuedAt).Seconds(), RunningOnRunners: strconv.Itoa(s.runningIn(p)),
			QueueSize: len(s.state.pending), QueueDepth: 1,
		},
		GitInfo: wireGitInfo{
			RepoURL: s.cloneURL(j), RepoObjectFormat: "sha1", Ref: j.Ref, SHA: j.SHA, BeforeSHA: pl.BeforeSHA, RefType: "branch",
			Refspecs: []string{
				fmt.Sprintf("+refs/pipelines/%d:refs/pipelines/%d", pl.ID, pl.ID),
				fmt.Sprintf("+refs/heads/%s:refs/remotes/origin/%s", j.Ref, j.Ref),
			},
			Depth: 20, Protected: j.protected,
		},
		RunnerInfo: wireRunnerInfo{Timeout: timeout},
		Variables:  s.variables(j),
		Steps: []wireStep{{
			Name: "script", Script: slices.Concat(j.spec.BeforeScript, j.spec.Script), Timeout: timeout, When: "on_success",
		}},
		Image: j.spec.Image, Services: slices.Clone(j.spec.Services), Artifacts: []wireArtifact{}, Cache: []struct{}{}, Credentials: []struct{}{},
		Dependencies: s.dependencies(j), Hooks: []struct{}{},
		Features: wireFeatures{
			TraceSections: true, TokenMaskPrefixes: []string{"glpat-", "glrt-", "glcbt-"}, FailureReasons: failureReasons,
		},
	}
	if w.Services == nil {
		w.Services = []*Image{}
	}
	if len(j.spec.AfterScript) > 0 {
		w.Steps = append(w.Steps, wireStep{
			Name: "after_script", Script: j.spec.AfterScript, Timeout: timeout, When: "always", AllowFailure: true,
		})
	}
	if a := j.spec.Artifacts; a != nil && (len(a.Paths) > 0 || a.Untracked) {
		out := wireArtifact{
			Untracked: a.Untracked, Paths: a.Paths, Exclude: a.Exclude, When: a.When, ExpireIn: cmp.Or(a.ExpireIn, "30 days"),
			Type: "archive", Format: "zip",
		}
		if a.Name != "" {
			out.Name = &a.Name
		}
		w.Artifacts = append(w.Artifacts, out)
	}
	return w
}

func (s *Server) runningIn(p *project) int {
	n := 0
	for _, pl := range s.state.pipelines {
		if pl.project != p || pl.Status.Finished() {
			continue
		}
		for _, j := range pl.latest {
			if j.Status.onRunner() {
				n++
			}
		}
	}
	return n
}

// dependencies are the earlier jobs whose artifacts the runner fetches first. Each carries the
// running job's own token, not one of its own, so it dies with this job.
func (s *Server) dependencies(j *job) []wireDependency {
	out := []wireDependency{}
	for _, b := range j.pipeline.before(j) {
		wanted := true
		switch {
		case j.spec.HasDeps:
			wanted = slices.Contains(j.spec.Dependencies, b.spec.Name) || slices.Contains(j.spec.Dependencies, b.spec.base)
		case j.spec.HasNeeds:
			wanted = slices.ContainsFunc(j.spec.Needs, func(n Need) bool {
				return n.Artifacts && (n.Job == b.spec.Name || n.Job == b.spec.base)
			})
		}
		if !wanted || !b.Status.Finished() {
			continue
		}
		d := wireDependency{ID: b.ID, Name: b.Name, Token: j.token}
		for _, a := range b.Artifacts {
			if a.Type == "archive" {
				d.ArtifactsFile = &wireFile{Filename: a.Filename, Size: a.Size}
			}
		}
		if d.ArtifactsFile != nil {
			out = append(out, d)
		}
	}
	return out
}
