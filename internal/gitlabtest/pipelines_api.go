package gitlabtest

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
)

func (c *call) pipeline() (*pipeline, error) {
	p, err := c.project(Reporter)
	if err != nil {
		return nil, err
	}
	id, err := strconv.ParseInt(c.r.PathValue("pipeline"), 10, 64)
	if err != nil {
		return nil, apiParam("pipeline_id is invalid")
	}
	pl := c.s.state.pipelines[id]
	if pl == nil || pl.project != p {
		return nil, notFound("")
	}
	return pl, nil
}

func (c *call) getPipeline() (any, error) {
	p, err := c.pipeline()
	if err != nil {
		return nil, err
	}
	return c.s.pipelineView(p), nil
}

func (c *call) cancelPipeline() (any, error) {
	p, err := c.pipeline()
	if err != nil {
		return nil, err
	}
	// All at once, or a cancelled job would set the next ones going.
	for _, j := range slices.Clone(p.latest) {
		if j.Status == StatusCreated || j.Status == StatusPending || j.Status == StatusManual {
			c.s.transition(j, StatusCanceled)
		}
	}
	for _, j := range slices.Clone(p.latest) {
		c.s.cancelNow(j, false)
	}
	c.status = http.StatusOK
	return c.s.pipelineView(p), nil
}

// createPipeline is POST /projects/:id/pipeline. It runs git, so it does not hold mu throughout.
func (s *Server) createPipeline(w http.ResponseWriter, r *http.Request) error {
	p, err := readParams(r)
	if err != nil {
		return err
	}
	c := &call{s: s, w: w, r: r, params: p}
	found, err := c.run(scopeWrite, func(c *call) (any, error) { return c.project(Developer) })
	if err != nil {
		return err
	}
	pl, err := s.RunPipeline(found.(*project).ID, p.text("ref"))
	if err != nil {
		return apiInvalid(http.StatusBadRequest, "base", err.Error())
	}
	s.mu.Lock()
	view := s.pipelineView(s.state.pipelines[pl.ID])
	s.mu.Unlock()
	writeJSON(w, http.StatusCreated, view)
	return nil
}

func (s *Server) pipelineBrief(p *pipeline) map[string]any {
	return map[string]any{
		"id": p.ID, "iid": p.IID, "project_id": p.ProjectID, "sha": p.SHA, "ref": p.Ref, "status": p.Status,
		"source": p.Source, "created_at": apiTime(p.CreatedAt), "updated_at": apiTime(p.UpdatedAt),
		"web_url": fmt.Sprintf("%s/-/pipelines/%d", p.project.WebURL, p.ID),
	}
}

func (s *Server) pipelineView(p *pipeline) map[string]any {
	v := s.pipelineBrief(p)
	for k, extra := range map[string]any{
		"before_sha": p.BeforeSHA, "tag": false, "yaml_errors": nil, "started_at": apiTime(p.StartedAt),
		"finished_at": apiTime(p.FinishedAt), "committed_at": nil, "coverage": nil, "name": nil,
		"duration": wholeSeconds(p.StartedAt, p.FinishedAt), "queued_duration": wholeSeconds(p.CreatedAt, p.StartedAt),
		"user": map[string]any{"id": userID, "username": userName, "name": userFullName, "state": "active"},
	} {
		v[k] = extra
	}
	return v
}
