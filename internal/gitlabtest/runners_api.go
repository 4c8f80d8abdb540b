package gitlabtest

import (
	"net/http"
	"slices"
	"strconv"
	"time"
)

// createRunner is POST /user/runners.
// Source: https://docs.gitlab.com/api/users/#create-a-runner-linked-to-a-user
func (c *call) createRunner() (any, error) {
	in := Runner{RunUntagged: true}
	switch in.Type = c.params.text("runner_type"); in.Type {
	case "":
		return nil, apiParam("runner_type is missing")
	case "instance_type":
		if !c.token.Admin {
			return nil, forbidden("")
		}
	case "project_type":
		id, err := c.params.number("project_id")
		if err != nil {
			return nil, err
		}
		if id == 0 {
			return nil, apiParam("project_id is missing")
		}
		p := c.s.state.projects[id]
		if p == nil || c.token.role(id) == 0 {
			return nil, notFound("Project")
		}
		if c.token.role(id) < Owner {
			return nil, forbidden("")
		}
		in.ProjectIDs = []int64{id}
	case "group_type":
		id, err := c.params.number("group_id")
		if err != nil {
			return nil, err
		}
		if id == 0 {
			return nil, apiParam("group_id is missing")
		}
		if !c.s.groupExists(id) {
			return nil, notFound("Group")
		}
		in.GroupID = id
	default:
		return nil, apiParam("runner_type does not have a valid value")
	}
	if err := c.readRunner(&in); err != nil {
		return nil, err
	}
	r := c.s.addRunner(in)
	return map[string]any{"id": r.ID, "token": r.Token, "token_expires_at": apiTime(r.TokenExpiresAt)}, nil
}

// readRunner takes the settings that a create and an update have in common.
func (c *call) readRunner(r *Runner) error {
	p := c.params
	if p.has("description") {
		r.Description = p.text("description")
	}
	if p.has("maintenance_note") {
		r.MaintenanceNote = p.text("maintenance_note")
	}
	if p.has("tag_list") {
		r.Tags = p.list("tag_list")
	}
	for key, into := range map[string]*bool{"locked": &r.Locked, "run_untagged": &r.RunUntagged, "paused": &r.Paused} {
		if err := p.flag(key, into); err != nil {
			return err
		}
	}
	switch p.text("access_level") {
	case "":
	case "not_protected":
		r.RefProtected = false
	case "ref_protected":
		r.RefProtected = true
	default:
		return apiParam("access_level does not have a valid value")
	}
	if p.has("maximum_timeout") {
		n, err := p.number("maximum_timeout")
		if err != nil {
			return err
		}
		r.MaximumTimeout = time.Duration(n) * time.Second
	}
	if p.has("token_expires_at") {
		at, err := time.Parse(time.RFC3339, p.text("token_expires_at"))
		if err != nil {
			return apiParam("token_expires_at is invalid")
		}
		now := c.s.now()
		if at.Before(now.Add(5*time.Minute)) || at.After(now.Add(15*24*time.Hour)) {
			return apiInvalid(http.StatusBadRequest, "token_expires_at", "must be between 5 minutes and 15 days ahead")
		}
		r.TokenExpiresAt = at
	}
	switch {
	case !r.RunUntagged && len(r.Tags) == 0:
		return apiInvalid(http.StatusBadRequest, "tags_list", "can not be empty when runner is not allowed to pick untagged jobs")
	case r.MaximumTimeout != 0 && r.MaximumTimeout < 10*time.Minute:
		return apiInvalid(http.StatusBadRequest, "maximum_timeout", "needs to be at least 10 minutes")
	case len([]rune(r.MaintenanceNote)) > 1024:
		return apiInvalid(http.StatusBadRequest, "maintenance_note", "is too long (maximum is 1024 characters)")
	case len(r.Tags) > 50:
		return apiInvalid(http.StatusBadRequest, "tags_list", "Too many tags specified. Please limit the number of tags to 50")
	}
	return nil
}

// owned finds the runner in the path, if the caller may manage it.
func (c *call) owned() (*runner, error) {
	id, err := strconv.ParseInt(c.r.PathValue("id"), 10, 64)
	if err != nil {
		return nil, apiParam("id is invalid")
	}
	r := c.s.state.runners[id]
	if r == nil {
		return nil, apiMessage(http.StatusNotFound, "404 Not found")
	}
	if !c.manages(r) {
		return nil, forbidden("No access granted")
	}
	return r, nil
}

func (c *call) manages(r *runner) bool {
	return c.token.Admin || slices.ContainsFunc(r.ProjectIDs, func(id int64) bool { return c.token.role(id) >= Maintainer })
}

func (c *call) getRunner() (any, error) {
	r, err := c.owned()
	if err != nil {
		return nil, err
	}
	return c.s.runnerDetails(r), nil
}

func (c *call) updateRunner() (any, error) {
	r, err := c.owned()
	if err != nil {
		return nil, err
	}
	changed := r.Runner
	if err := c.readRunner(&changed); err != nil {
		return nil, err
	}
	r.Runner = changed
	c.s.tick(r)
	c.s.touch()
	return c.s.runnerDetails(r), nil
}

func (c *call) deleteRunner() (any, error) {
	r, err := c.owned()
	if err != nil {
		return nil, err
	}
	c.s.removeRunner(r)
	return c.noContent()
}

func (c *call) resetRunnerToken() (any, error) {
	r, err := c.owned()
	if err != nil {
		return nil, err
	}
	c.s.replaceRunnerToken(r)
	return map[string]any{"token": r.Token, "token_expires_at": apiTime(r.TokenExpiresAt)}, nil
}

func (c *call) assignRunner() (any, error) {
	p, err := c.project(Maintainer)
	if err != nil {
		return nil, err
	}
	id, err := c.params.number("runner_id")
	if err != nil {
		return nil, err
	}
	r := c.s.state.runners[id]
	switch {
	case r == nil:
		return nil, notFound("Runner")
	case r.Type != "project_type":
		return nil, forbidden("Runner is not a project runner")
	case r.Locked:
		return nil, forbidden("Runner is locked")
	}
	if !slices.Contains(r.ProjectIDs, p.ID) {
		r.ProjectIDs = append(r.ProjectIDs, p.ID)
		c.s.tick(r)
		c.s.touch()
	}
	return r.brief(c.s.now()), nil
}
