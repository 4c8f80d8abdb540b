package gitlabtest

import (
	"slices"
	"time"
)

// advance starts, skips or parks every created job whose time has come, until nothing moves.
// The caller holds mu.
func (s *Server) advance(p *pipeline) {
	for moved := true; moved; {
		moved = false
		for _, j := range slices.Clone(p.latest) {
			if j.Status != StatusCreated {
				continue
			}
			if to := p.verdict(j); to != StatusCreated {
				s.transition(j, to)
				moved = true
			}
		}
	}
}

// verdict is what a created job should become, StatusCreated meaning: wait.
// Source: https://docs.gitlab.com/ci/yaml/#when
func (p *pipeline) verdict(j *job) Status {
	var failed, canceled, skipped bool
	for _, b := range p.before(j) {
		switch b.Status {
		case StatusSuccess:
		case StatusFailed:
			failed = failed || !b.AllowFailure
		case StatusCanceled:
			canceled = canceled || !b.AllowFailure
		case StatusSkipped:
			skipped = true
		case StatusManual:
			if !b.AllowFailure {
				return StatusCreated
			}
			skipped = true
		default:
			return StatusCreated
		}
	}
	// A stage that was skipped holds nobody up; a needed job that was skipped does.
	good := !failed && !canceled && (!skipped || !j.spec.HasNeeds)
	switch {
	case j.spec.When == "always", j.spec.When == "on_success" && good, j.spec.When == "on_failure" && failed:
		return StatusPending
	case j.spec.When == "manual" && good:
		return StatusManual
	}
	return StatusSkipped
}

// before are the jobs that must end before j is looked at: what it needs, or all earlier stages.
func (p *pipeline) before(j *job) []*job {
	var out []*job
	for _, other := range p.latest {
		if j.spec.HasNeeds {
			if slices.ContainsFunc(j.spec.Needs, func(n Need) bool { return other.spec.Name == n.Job || other.spec.base == n.Job }) {
				out = append(out, other)
			}
		} else if other.stage < j.stage {
			out = append(out, other)
		}
	}
	return out
}

// downstream are the jobs that wait for j, at any distance.
func (p *pipeline) downstream(j *job) []*job {
	found := []*job{j}
	for grown := true; grown; {
		grown = false
		for _, other := range p.latest {
			if slices.Contains(found, other) {
				continue
			}
			if slices.ContainsFunc(p.before(other), func(b *job) bool { return slices.Contains(found, b) }) {
				found, grown = append(found, other), true
			}
		}
	}
	return found[1:]
}

// updatePipeline computes the pipeline's status and times from its jobs.
func (s *Server) updatePipeline(p *pipeline) {
	now := s.now()
	to := p.composite()
	if p.StartedAt.IsZero() && slices.ContainsFunc(p.latest, func(j *job) bool { return !j.StartedAt.IsZero() }) {
		p.StartedAt = now
	}
	if to == p.Status {
		return
	}
	p.Status, p.UpdatedAt = to, now
	p.FinishedAt = time.Time{}
	if to.Finished() {
		p.FinishedAt = now
	}
	s.log.Info("pipeline moved", "pipeline", p.ID, "to", to)
}

// composite is a pipeline's status out of its jobs'. A failed or cancelled job that may fail counts
// as a success, a manual one that may be left out as nothing.
func (p *pipeline) composite() Status {
	has := map[Status]bool{}
	for _, j := range p.latest {
		switch {
		case j.AllowFailure && (j.Status == StatusFailed || j.Status == StatusCanceled):
			has[StatusSuccess] = true
		case j.AllowFailure && j.Status == StatusManual:
			has[StatusSkipped] = true
		default:
			has[j.Status] = true
		}
	}
	only := func(among ...Status) bool {
		for s := range has {
			if !slices.Contains(among, s) {
				return false
			}
		}
		return true
	}
	switch {
	case only(StatusSkipped):
		return StatusSkipped
	case only(StatusSuccess, StatusSkipped):
		return StatusSuccess
	case only(StatusCreated, StatusSkipped):
		return StatusCreated
	case only(StatusCanceled, StatusSuccess, StatusSkipped):
		return StatusCanceled
	case only(StatusPending, StatusCreated, StatusSkipped):
		return StatusPending
	case has[StatusCanceling]:
		return StatusCanceling
	case has[StatusRunning], has[StatusPending]:
		return StatusRunning
	case has[StatusManual]:
		return StatusManual
	case has[StatusCreated]:
		return StatusRunning
	}
	return StatusFailed
}
