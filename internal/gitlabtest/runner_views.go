package gitlabtest

import (
	"slices"
	"strings"
	"time"
)

// brief is a runner as lists and jobs show it.
func (r *runner) brief(now time.Time) map[string]any {
	return map[string]any{
		"id": r.ID, "description": r.Description, "ip_address": "127.0.0.1", "active": !r.Paused, "paused": r.Paused,
		"is_shared": r.Type == "instance_type", "runner_type": r.Type, "name": nil,
		"online": r.status(now) == "online", "status": r.status(now), "created_at": apiTime(r.CreatedAt),
		"created_by": map[string]any{"id": userID, "username": userName, "name": userFullName},
	}
}

// runnerDetails is a runner as GET /runners/:id shows it. It never holds the token, nor when that expires.
// Source: https://docs.gitlab.com/api/runners/#get-runners-details
func (s *Server) runnerDetails(r *runner) map[string]any {
	v := r.brief(s.now())
	tags := slices.Clone(r.Tags)
	if tags == nil {
		tags = []string{}
	}
	access, timeout := "not_protected", any(nil)
	if r.RefProtected {
		access = "ref_protected"
	}
	if r.MaximumTimeout > 0 {
		timeout = int64(r.MaximumTimeout / time.Second)
	}
	last := RunnerSystem{}
	if len(r.Systems) > 0 {
		last = r.Systems[len(r.Systems)-1]
	}
	projects, groups := []map[string]any{}, []map[string]any{}
	for _, id := range r.ProjectIDs {
		if p := s.state.projects[id]; p != nil {
			projects = append(projects, p.brief())
		}
	}
	for path, id := range s.state.groups {
		if id == r.GroupID {
			groups = append(groups, map[string]any{"id": id, "name": path[strings.LastIndex(path, "/")+1:], "web_url": s.external + "/groups/" + path})
		}
	}
	for k, extra := range map[string]any{
		"tag_list": tags, "run_untagged": r.RunUntagged, "locked": r.Locked, "maximum_timeout": timeout,
		"access_level": access, "version": last.Version, "revision": last.Revision, "platform": last.Platform,
		"architecture": last.Architecture, "contacted_at": apiTime(r.ContactedAt), "maintenance_note": r.MaintenanceNote,
		"projects": projects, "groups": groups,
	} {
		v[k] = extra
	}
	return v
}
