package gitlabtest

import (
	"slices"
)

func (c *call) listRunners() (any, error)    { return c.runnerList(c.manages) }
func (c *call) listAllRunners() (any, error) { return c.runnerListAdmin() }

func (c *call) runnerListAdmin() (any, error) {
	if !c.token.Admin {
		return nil, forbidden("")
	}
	return c.runnerList(func(*runner) bool { return true })
}

func (c *call) listProjectRunners() (any, error) {
	p, err := c.project(Maintainer)
	if err != nil {
		return nil, err
	}
	return c.runnerList(func(r *runner) bool { return r.covers(p) })
}

// runnerList is a list of runners, newest first, with the filters that all such lists take.
// Source: https://docs.gitlab.com/api/runners/#list-all-available-runners
func (c *call) runnerList(include func(*runner) bool) (any, error) {
	now := c.s.now()
	kind, status, tags := c.params.text("type"), c.params.text("status"), c.params.list("tag_list")
	if kind != "" && !slices.Contains([]string{"instance_type", "group_type", "project_type"}, kind) {
		return nil, apiParam("type does not have a valid value")
	}
	if status != "" && !slices.Contains([]string{"online", "offline", "stale", "never_contacted", "active", "paused"}, status) {
		return nil, apiParam("status does not have a valid value")
	}
	all := []*runner{}
	for _, r := range slices.Backward(c.s.runnersByID()) {
		paused := r.Paused
		if err := c.params.flag("paused", &paused); err != nil {
			return nil, err
		}
		fitsStatus := status == "" || status == r.status(now) || (status == "paused" && r.Paused) || (status == "active" && !r.Paused)
		hasTags := !slices.ContainsFunc(tags, func(t string) bool { return !slices.Contains(r.Tags, t) })
		if include(r) && (kind == "" || kind == r.Type) && paused == r.Paused && fitsStatus && hasTags {
			all = append(all, r)
		}
	}
	return pageViews(c, all, true, func(r *runner) map[string]any { return r.brief(now) })
}

// listRunnerJobs never shows a pending job: a job has no runner before it was taken.
func (c *call) listRunnerJobs() (any, error) {
	r, err := c.owned()
	if err != nil {
		return nil, err
	}
	status := Status(c.params.text("status"))
	if status != "" && !slices.Contains([]Status{StatusRunning, StatusSuccess, StatusFailed, StatusCanceled}, status) {
		return nil, apiParam("status does not have a valid value")
	}
	all := []*job{}
	for _, id := range slices.Backward(r.JobIDs) {
		if j := c.s.state.jobs[id]; status == "" || j.Status == status {
			all = append(all, j)
		}
	}
	return pageViews(c, all, true, c.s.jobView)
}

func (c *call) listRunnerSystems() (any, error) {
	r, err := c.owned()
	if err != nil {
		return nil, err
	}
	return pageViews(c, r.Systems, true, func(m RunnerSystem) map[string]any {
		return map[string]any{
			"id": 1, "system_id": m.SystemID, "version": m.Version, "revision": m.Revision, "platform": m.Platform,
			"architecture": m.Architecture, "created_at": apiTime(m.CreatedAt), "contacted_at": apiTime(m.ContactedAt),
			"ip_address": "127.0.0.1", "status": "online",
		}
	})
}
