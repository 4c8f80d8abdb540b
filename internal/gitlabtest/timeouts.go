package gitlabtest

import (
	"slices"
	"time"
)

// SweepTimeouts does what GitLab's own sweeps do for jobs whose runner is dead, and says how many it failed: one that is
// over its timeout by more than the grace, and one of which nothing was heard for [Config.SilenceLimit]. Nothing else
// ends a job whose runner is gone: deleting the runner does not.
// Sources, in GitLab: app/services/ci/timed_out_builds/drop_running_service.rb,
// app/services/ci/stuck_builds/drop_running_service.rb, app/services/ci/runners/unregister_runner_service.rb; the reasons
// are those of 19.1 and later, before which they were job_execution_timeout and stuck_or_timeout_failure.
func (s *Server) SweepTimeouts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, j := range slices.Clone(s.state.jobOrder) {
		if reason := s.overdue(j); reason != "" {
			s.finish(j, StatusFailed, reason, nil)
			n++
		}
	}
	return n
}

// overdue is why GitLab would end a job that runs; empty: it would not. The caller holds mu.
func (s *Server) overdue(j *job) string {
	ran, silent := s.now().Sub(j.StartedAt), s.now().Sub(j.heardAt)
	switch {
	case !j.Status.onRunner():
		return ""
	case ran > j.Timeout+s.cfg.TimeoutGrace:
		return "server_timeout_running"
	case j.Status == StatusRunning && ran < j.Timeout && silent > s.cfg.SilenceLimit:
		return "no_updates_running"
	}
	return ""
}

// sweepLoop fails overdue jobs by itself until the server is closed.
func (s *Server) sweepLoop() {
	ticker := time.NewTicker(s.cfg.SweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.SweepTimeouts()
		case <-s.ctx.Done():
			return
		}
	}
}
