package gitlab

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"strings"
	"time"

	gl "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/firerunner/firerunner"
)

// Bounds of what is kept of a job; GitLab's own are smaller or equal where it has any. Names are user text.
const (
	mostName = 255  // characters of a name, a stage, a ref
	mostPath = 1024 // characters of a project's path
	mostTags = 50   // tags of a job; GitLab permits a runner 50
)

// RunnerJobs returns the jobs that the runner has taken, whatever became of them: none or one, beside some that were cancelled
// before they began, unless its token was copied. GitLab lists no pending jobs here
// (https://docs.gitlab.com/api/runners/#list-jobs-processed-by-a-runner).
func (c *Client) RunnerJobs(ctx context.Context, id int64) ([]firerunner.Job, error) {
	doing := fmt.Sprintf("listing the jobs of runner %d", id)
	all, err := pages(ctx, c, "runner_jobs", doing,
		func(page gl.ListOptions, with ...gl.RequestOptionFunc) ([]*gl.Job, *gl.Response, error) {
			return c.api.Runners.ListRunnerJobs(id, &gl.ListRunnerJobsOptions{ListOptions: page}, with...)
		})
	jobs := c.jobs(all, 0)
	for i := range jobs {
		jobs[i].GitLabID = id // this list does not repeat it
	}
	return jobs, err
}

// Job returns one job (https://docs.gitlab.com/api/jobs/#retrieve-a-job). It is the only way to learn a job's tags:
// its webhook does not carry them.
func (c *Client) Job(ctx context.Context, projectID, jobID int64) (firerunner.Job, error) {
	doing := fmt.Sprintf("reading job %d of project %d", jobID, projectID)
	j, _, err := call(ctx, c, "job", doing, func(with ...gl.RequestOptionFunc) (*gl.Job, *gl.Response, error) {
		return c.api.Jobs.GetJob(projectID, jobID, append(with, again())...)
	})
	if err != nil {
		return firerunner.Job{}, err
	}
	if j == nil || j.ID != jobID || j.Status == "" {
		return firerunner.Job{}, firerunner.Errorf(firerunner.Unavailable, "gitlab: %s: the answer is not that job", doing)
	}
	return c.job(j, projectID), nil
}

// PendingJobs returns every pending job of a project (https://docs.gitlab.com/api/jobs/#list-project-jobs), which is
// how jobs are found whose webhook was lost. GitLab permits 600 of these calls a minute
// (project_jobs_api_rate_limit). After Exhausted (more pages than Config.MaxPages) the jobs that were read are
// returned beside the error.
func (c *Client) PendingJobs(ctx context.Context, projectID int64) ([]firerunner.Job, error) {
	doing := fmt.Sprintf("listing the pending jobs of project %d", projectID)
	all, err := pages(ctx, c, "pending_jobs", doing,
		func(page gl.ListOptions, with ...gl.RequestOptionFunc) ([]*gl.Job, *gl.Response, error) {
			scope := []gl.BuildStateValue{gl.Pending}
			return c.api.Jobs.ListProjectJobs(projectID, &gl.ListJobsOptions{ListOptions: page, Scope: &scope}, with...)
		})
	return c.jobs(all, projectID), err
}

// jobs maps a list, each job once. Entries that cannot be a job are left out.
func (c *Client) jobs(list []*gl.Job, projectID int64) []firerunner.Job {
	var jobs []firerunner.Job
	seen := map[int64]bool{}
	for _, j := range list {
		if j == nil || j.ID <= 0 || j.Status == "" || seen[j.ID] {
			continue
		}
		seen[j.ID] = true
		jobs = append(jobs, c.job(j, projectID))
	}
	return jobs
}

// job maps one job. projectID is the one we asked about, 0 where the answer has to say.
func (c *Client) job(j *gl.Job, projectID int64) firerunner.Job {
	now := c.now()
	job := firerunner.Job{
		ID: j.ID, ProjectID: projectID, PipelineID: max(j.Pipeline.ID, 0),
		ProjectPath: c.projectPath(j), Name: clean(j.Name, mostName), Stage: clean(j.Stage, mostName), Ref: clean(j.Ref, mostName),
		Status: firerunner.JobStatus(clean(j.Status, 32)), Tags: firerunner.NewTagSet(j.TagList[:min(len(j.TagList), mostTags)]...),
		GitLabID:  max(j.Runner.ID, 0),
		CreatedAt: at(j.CreatedAt), StartedAt: at(j.StartedAt), FinishedAt: at(j.FinishedAt), SeenAt: now,
	}
	if job.ProjectID == 0 && j.Project != nil {
		job.ProjectID = max(j.Project.ID, 0)
	}
	if job.ProjectID == 0 {
		job.ProjectID = max(j.Pipeline.ProjectID, 0)
	}
	if job.Status == firerunner.JobFailed {
		job.Failure = clean(j.FailureReason, 64)
	}
	// GitLab says for how long a job waited, counted to its start or to now, and not since when
	// (https://docs.gitlab.com/api/jobs/, queued_duration in seconds).
	if waited := j.QueuedDuration; waited > 0 && waited < math.MaxInt32 {
		until := job.StartedAt
		if until.IsZero() && job.Status == firerunner.JobPending {
			until = now
		}
		if !until.IsZero() {
			job.QueuedAt = until.Add(-time.Duration(waited * float64(time.Second)))
		}
	}
	return job
}

// projectPath is the project's path: as told, or else from the job's address (.../group/project/-/jobs/1).
func (c *Client) projectPath(j *gl.Job) string {
	if j.Project != nil && j.Project.PathWithNamespace != "" {
		return clean(j.Project.PathWithNamespace, mostPath)
	}
	u, err := url.Parse(j.WebURL)
	if err != nil {
		return ""
	}
	path, _, ok := strings.Cut(strings.TrimPrefix(u.Path, c.base.Path), "/-/")
	if !ok {
		return ""
	}
	return clean(strings.Trim(path, "/"), mostPath)
}

func at(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}
