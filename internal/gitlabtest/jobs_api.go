package gitlabtest

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strconv"
)

func containsBytes(b []byte, text string) bool { return bytes.Contains(b, []byte(text)) }

// job finds the job in the path, in its project.
func (c *call) job(least Role) (*job, error) {
	p, err := c.project(least)
	if err != nil {
		return nil, err
	}
	id, err := strconv.ParseInt(c.r.PathValue("job"), 10, 64)
	if err != nil {
		return nil, apiParam("job_id is invalid")
	}
	j := c.s.state.jobs[id]
	if j == nil || j.project != p {
		return nil, notFound("")
	}
	return j, nil
}

var jobStatuses = []Status{
	StatusCreated, StatusPending, StatusRunning, StatusCanceling, StatusSuccess, StatusFailed, StatusCanceled,
	StatusSkipped, StatusManual, "waiting_for_resource", "preparing", "scheduled", "waiting_for_callback",
}

// listJobs is a project's jobs, newest first, with scope[].
// Source: https://docs.gitlab.com/api/jobs/#list-all-jobs-for-a-project
func (c *call) listJobs() (any, error) {
	p, err := c.project(Reporter)
	if err != nil {
		return nil, err
	}
	scope := c.params.list("scope")
	for _, status := range scope {
		if !slices.Contains(jobStatuses, Status(status)) {
			return nil, apiParam("scope does not have a valid value")
		}
	}
	all := []*job{}
	for _, j := range slices.Backward(c.s.state.jobOrder) {
		if j.project == p && (len(scope) == 0 || slices.Contains(scope, string(j.Status))) {
			all = append(all, j)
		}
	}
	return pageViews(c, all, false, c.s.jobView)
}

func (c *call) listPipelineJobs() (any, error) {
	p, err := c.pipeline()
	if err != nil {
		return nil, err
	}
	return pageViews(c, slices.Clone(p.latest), true, c.s.jobView)
}

func (c *call) getJob() (any, error) {
	j, err := c.job(Reporter)
	if err != nil {
		return nil, err
	}
	return c.s.jobView(j), nil
}

func (c *call) cancelJob() (any, error) {
	j, err := c.job(Developer)
	if err != nil {
		return nil, err
	}
	var force bool
	if err := c.params.flag("force", &force); err != nil {
		return nil, err
	}
	c.s.cancelNow(j, force)
	return c.s.jobView(j), nil
}

func (c *call) retryJob() (any, error) {
	j, err := c.job(Developer)
	if err != nil {
		return nil, err
	}
	again, ok := c.s.retryNow(j)
	if !ok {
		return nil, forbidden("Job is not retryable")
	}
	return c.s.jobView(again), nil
}

func (c *call) playJob() (any, error) {
	j, err := c.job(Developer)
	if err != nil {
		return nil, err
	}
	if j.Status != StatusManual {
		return nil, apiMessage(http.StatusBadRequest, "400 Bad request - Unplayable Job")
	}
	c.s.transition(j, StatusPending)
	c.s.advance(j.pipeline)
	c.status = http.StatusOK
	return c.s.jobView(j), nil
}

func (s *Server) getTrace(w http.ResponseWriter, r *http.Request) error {
	c := &call{s: s, w: w, r: r, params: params{}}
	trace, err := c.run(scopeRead, func(c *call) (any, error) {
		j, err := c.job(Reporter)
		if err != nil {
			return nil, err
		}
		return bytes.Clone(j.trace), nil
	})
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = w.Write(trace.([]byte))
	return nil
}

// jobView is a job as the API shows it, tag_list included: the one place where tags can be learnt.
// Source: https://docs.gitlab.com/api/jobs/#get-a-single-job
func (s *Server) jobView(j *job) map[string]any {
	p := j.pipeline
	tags := slices.Clone(j.Tags)
	if tags == nil {
		tags = []string{}
	}
	queued := any(nil)
	if !j.QueuedAt.IsZero() {
		until := j.StartedAt
		if until.IsZero() {
			until = s.now()
		}
		queued = until.Sub(j.QueuedAt).Seconds()
	}
	duration := seconds(j.StartedAt, j.FinishedAt)
	if j.Status.onRunner() {
		duration = seconds(j.StartedAt, s.now())
	}
	v := map[string]any{
		"id": j.ID, "name": j.Name, "stage": j.Stage, "status": j.Status, "ref": j.Ref, "tag": false, "coverage": nil,
		"allow_failure": j.AllowFailure, "created_at": apiTime(j.CreatedAt), "started_at": apiTime(j.StartedAt),
		"finished_at": apiTime(j.FinishedAt), "erased_at": nil, "duration": duration, "queued_duration": queued,
		"user": map[string]any{
			"id": userID, "username": userName, "name": userFullName, "state": "active", "avatar_url": nil,
			"web_url": s.external + "/" + userName,
		},
		"commit":   s.commitView(p),
		"pipeline": s.pipelineBrief(p),
		"project":  map[string]any{"ci_job_token_scope_enabled": false},
		"web_url":  fmt.Sprintf("%s/-/jobs/%d", j.project.WebURL, j.ID),
		"archived": false, "artifacts": artifactViews(j), "artifacts_expire_at": nil, "tag_list": tags,
		"runner": nil, "runner_manager": nil,
	}
	if j.Status == StatusFailed {
		v["failure_reason"] = j.FailureReason
	}
	if r := j.liveRunner(); r != nil {
		v["runner"] = r.brief(s.now())
	}
	for _, a := range j.Artifacts {
		if a.Type == "archive" {
			v["artifacts_file"] = map[string]any{"filename": a.Filename, "size": a.Size}
		}
	}
	return v
}

func (s *Server) commitView(p *pipeline) map[string]any {
	c := p.commit
	title, _, _ := bytes.Cut([]byte(c.message), []byte("\n"))
	return map[string]any{
		"id": c.sha, "short_id": c.sha[:8], "title": string(title), "message": c.message + "\n", "created_at": apiTime(c.at),
		"parent_ids": []string{c.parent}, "author_name": authorName, "author_email": authorEmail,
		"authored_date": apiTime(c.at), "committer_name": authorName, "committer_email": authorEmail,
		"committed_date": apiTime(c.at), "trailers": map[string]any{}, "web_url": p.project.WebURL + "/-/commit/" + c.sha,
	}
}
