package gitlabtest

import "slices"

// fits says whether GitLab would hand this job to this runner: scope, tags, untagged, protection.
// Nothing binds a job to a runner: any runner that fits may take it.
// Source: https://docs.gitlab.com/ci/runners/configure_runners/#control-jobs-that-a-runner-can-run
func (r *runner) fits(j *job) bool {
	switch {
	case r.RefProtected && !j.protected:
		return false
	case len(j.Tags) == 0 && !r.RunUntagged:
		return false
	case !r.covers(j.project):
		return false
	}
	for _, tag := range j.Tags {
		if !slices.Contains(r.Tags, tag) {
			return false
		}
	}
	return true
}

// covers says whether the runner serves the project. Being locked only keeps a project runner from
// being assigned to further projects.
func (r *runner) covers(p *project) bool {
	switch r.Type {
	case "instance_type":
		return true
	case "group_type":
		return slices.Contains(p.groupIDs, r.GroupID)
	}
	return slices.Contains(r.ProjectIDs, p.ID)
}

// nextJob is the oldest pending job that fits, or nil.
func (s *Server) nextJob(r *runner) *job {
	for _, j := range s.state.pending {
		if r.fits(j) {
			return j
		}
	}
	return nil
}
