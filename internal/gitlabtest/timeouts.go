package gitlabtest

import "time"

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
