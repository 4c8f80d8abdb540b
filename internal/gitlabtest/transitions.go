package gitlabtest

import (
	"cmp"
	"fmt"
	"slices"
)

// transition moves a job to a status and does all that follows from it: times, queue, hooks, the
// pipeline. The caller holds mu.
func (s *Server) transition(j *job, to Status) {
	from := j.Status
	if from == to {
		return
	}
	now := s.now()
	j.Status = to
	if from == StatusPending {
		s.state.pending = slices.DeleteFunc(s.state.pending, func(other *job) bool { return other == j })
	}
	switch to {
	case StatusPending:
		j.QueuedAt = now
		s.enqueue(j)
	case StatusRunning:
		j.StartedAt, j.heardAt = now, now
	case StatusSuccess, StatusFailed, StatusCanceled:
		j.FinishedAt = now
	}
	s.log.Info("job moved", "job", j.ID, "name", j.Name, "from", from, "to", to, "runner", j.RunnerID)
	s.updatePipeline(j.pipeline)
	if hooked(to) {
		s.fireJobHooks(j)
	}
	s.touch()
}

// hooked says which statuses GitLab announces; canceling, skipped and manual it does not.
func hooked(to Status) bool {
	switch to {
	case StatusCreated, StatusPending, StatusRunning, StatusSuccess, StatusFailed, StatusCanceled:
		return true
	}
	return false
}

// enqueue puts the job where its age belongs and wakes the runners that could take it.
func (s *Server) enqueue(j *job) {
	at, _ := slices.BinarySearchFunc(s.state.pending, j, func(a, b *job) int { return cmp.Compare(a.ID, b.ID) })
	s.state.pending = slices.Insert(s.state.pending, at, j)
	for _, r := range s.state.runners {
		if r.fits(j) {
			s.tick(r)
		}
	}
}

// finish is the runner's last word, or a timeout's. A job that is being cancelled ends cancelled,
// whatever the runner says.
func (s *Server) finish(j *job, to Status, reason string, exitCode *int) {
	j.ExitCode = exitCode
	switch {
	case j.Status == StatusCanceling:
		to = StatusCanceled
	case to == StatusFailed:
		j.FailureReason = cmp.Or(reason, "unknown_failure")
		if exitCode != nil && slices.Contains(j.spec.AllowCodes, *exitCode) {
			j.AllowFailure = true
		}
	}
	s.transition(j, to)
	if j.retried() {
		s.retryNow(j)
		return
	}
	s.advance(j.pipeline)
}

// cancel is a user's cancel: a job at a runner that can do so ends in its own time, unless forced.
// Cancelling what has ended changes nothing.
func (s *Server) cancelNow(j *job, force bool) {
	switch {
	case j.Status == StatusRunning && j.graceful && !force:
		s.transition(j, StatusCanceling)
	case j.Status.Finished(), j.Status == StatusCanceling && !force:
		return
	default:
		s.transition(j, StatusCanceled)
		s.advance(j.pipeline)
	}
}

// CancelJob cancels a job as a user does.
func (s *Server) CancelJob(id int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.state.jobs[id]
	if j == nil {
		return fmt.Errorf("cancelling job %d: no such job", id)
	}
	s.cancelNow(j, false)
	return nil
}

// RetryJob makes a new job, with a new id, in the place of a finished one.
func (s *Server) RetryJob(id int64) (Job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.state.jobs[id]
	if j == nil {
		return Job{}, fmt.Errorf("retrying job %d: no such job", id)
	}
	again, ok := s.retryNow(j)
	if !ok {
		return Job{}, fmt.Errorf("retrying job %d: it is %s, or was retried", id, j.Status)
	}
	return again.snapshot(), nil
}

func (s *Server) retryNow(old *job) (*job, bool) {
	if old.Retried || old.Status == StatusSkipped || !old.Status.Finished() {
		return nil, false
	}
	old.Retried = true
	j := s.addJob(old.pipeline, old.spec)
	j.RetryOf, j.RetriesCount = old.ID, old.RetriesCount+1
	old.pipeline.replace(old, j)
	// Jobs that were skipped because of the old one get another chance, under their own ids.
	for _, other := range old.pipeline.latest {
		if other.Status == StatusSkipped && slices.Contains(old.pipeline.downstream(j), other) {
			other.Status = StatusCreated
		}
	}
	s.updatePipeline(j.pipeline)
	s.fireJobHooks(j)
	s.transition(j, StatusPending)
	s.advance(j.pipeline)
	return j, true
}
