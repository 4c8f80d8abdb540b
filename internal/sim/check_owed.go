package sim

import (
	"context"
	"time"

	"github.com/firerunner/firerunner"
)

// sealKeys are those of every daemon of a world: all have the same token.
func sealKeys() *firerunner.SealKeys {
	return firerunner.NewSealKeys(func() (firerunner.Secret, error) { return "glpat-sim", nil })
}

// owed is a job that lost its microVM while GitLab believed that it runs, and whose key the daemon had.
type owed struct {
	job    *Job
	runner string
	at     time.Time // of the evidence
}

// owedWithin is the promise: so long after there is evidence GitLab has been told, where nothing is in the way.
const owedWithin = 10 * time.Second

// noteOwed looks at each runner that ends without its guest's word on its job.
func (w *world) noteOwed(e firerunner.Event) {
	if e.Kind != firerunner.EventUnwanted {
		return
	}
	switch e.Reason {
	case firerunner.ReasonVMExited, firerunner.ReasonVMLost, firerunner.ReasonHostLost, firerunner.ReasonRunnerExited, firerunner.ReasonGuestError:
	default: // who is told to stop may say so itself first
		return
	}
	r := w.store.rows.runners[e.RunnerID] // in the middle of the commit, which has the lock
	if r == nil || r.JobKey == "" {
		return
	}
	if j := w.gitlab.jobs[r.JobID]; j != nil && j.Status == firerunner.JobRunning && j.Runner == r.GitLabID {
		w.owed = append(w.owed, owed{j, r.ID, time.Now()})
	}
}

// roughTrip notes a call that went wrong, or took long, for as long as its caller may have waited for it.
func (w *world) roughTrip(t trip) {
	now := time.Now()
	switch {
	case t.refuse != nil || t.noAnswer != nil || t.noEffect || t.silent:
		w.rough = append(w.rough, span{now, now.Add(connectionLost)})
	case t.there > 500*time.Millisecond:
		w.rough = append(w.rough, span{now, now.Add(t.there)})
	}
}

// quiet reports whether nothing went wrong in a time: the daemon, its store and GitLab were there, and no call failed.
func (w *world) quiet(from, until time.Time) bool {
	for _, spans := range [][]span{w.downs, w.outages, w.rough} {
		for _, s := range spans {
			if s.overlaps(from, until) {
				return false
			}
		}
	}
	for _, s := range w.ending {
		if s.overlaps(from, until) {
			return false
		}
	}
	return true
}

// checkOwed: a job whose microVM died after its key was heard is failed by us, in time, and no key stays behind.
func (w *world) checkOwed() {
	for _, o := range w.owed {
		if !w.quiet(o.at, o.at.Add(owedWithin)) {
			continue
		}
		switch late := o.job.FinishedAt.Sub(o.at); {
		case !o.job.Status.Final() || late > owedWithin:
			w.problem("job %d lost the microVM of runner %s, and GitLab was told %s later: %s %s", o.job.ID, o.runner, late, o.job.Status, o.job.Failure)
		case o.job.Failure == firerunner.SystemFailure:
			w.told++
		case o.job.cancelled.IsZero() && len(o.job.ran) == 0:
			w.problem("job %d lost the microVM of runner %s, and is %s: %s", o.job.ID, o.runner, o.job.Status, o.job.Failure)
		}
	}
	all, _ := w.store.Runners(context.Background(), firerunner.RunnerQuery{})
	for _, r := range all {
		if !r.Live() && r.JobKey != "" {
			w.problem("runner %s is gone and still has the key of job %d", r.ID, r.JobID)
		}
	}
}
