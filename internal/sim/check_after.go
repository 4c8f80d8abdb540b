package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/firerunner/firerunner"
)

func sprint(format string, args ...any) string { return fmt.Sprintf(format, args...) }

// checkAfterwards looks at what is left and at the event log, once all is at rest.
func (w *world) checkAfterwards() {
	w.checkJobs()
	w.checkLives()
	w.checkReservations()
	w.checkOwed()
	if w.gitlab.runners[w.foreign] == nil {
		w.problem("somebody else's runner is gone from GitLab")
	}
}

func (w *world) vm(id string) *microVM {
	for _, vm := range w.fleet.all {
		if vm.spec.ID == id {
			return vm
		}
	}
	return nil
}

// checkJobs: every job that was wanted ran in one microVM, and ended as its script did, or there is a reason.
func (w *world) checkJobs() {
	refused := w.refused()
	for _, id := range w.gitlab.order {
		j := w.gitlab.jobs[id]
		switch {
		case j.Tags == tagDocker, j.Runner == w.foreign:
		case j.Tags == tagHuge:
			if !refused[id] && j.cancelled.IsZero() {
				w.problem("job %d asked for too much, and nobody said so", id)
			}
		case j.Status == firerunner.JobCanceled:
			if j.cancelled.IsZero() {
				w.problem("job %d is cancelled, and nobody cancelled it", id)
			}
		case j.Status == firerunner.JobSuccess, j.fails && j.Failure == "script_failure":
			if len(j.ran) != 1 || len(j.Handouts) != 1 {
				w.problem("job %d ended, and ran in %v after %v", id, j.ran, j.Handouts)
			}
			w.checkOutcome(j)
		case j.Status == firerunner.JobFailed:
			if vm := w.taker(j); vm == nil || !w.excused(vm, j) {
				w.problem("job %d failed (%s) without a reason", id, j.Failure)
			}
		}
	}
}

// taker is the microVM that a job was given to.
func (w *world) taker(j *Job) *microVM {
	for _, vm := range w.fleet.all {
		for _, id := range vm.took {
			if id == j.ID {
				return vm
			}
		}
	}
	return nil
}

// checkOutcome: what is remembered of an undisturbed life is what happened.
func (w *world) checkOutcome(j *Job) {
	vm := w.vm(j.ran[0])
	r, err := w.store.Runner(context.Background(), vm.spec.ID)
	if err != nil {
		w.problem("microVM %s ran job %d and has no runner: %v", vm.spec.ID, j.ID, err)
		return
	}
	if r.Image != image().Digest {
		w.problem("runner %s does not remember what its microVM booted: %q", r.ID, r.Image)
	}
	if w.excused(vm, j) || len(vm.took) > 1 {
		return
	}
	if w.shared() && !w.plan.remote && r.Reason == firerunner.ReasonDeadline {
		return // its controller was away, and nobody else hears its guest: its deadline passed unheard
	}
	want := firerunner.Succeeded
	if j.fails {
		want = firerunner.Failed
	}
	if r.Outcome != want || r.JobID != j.ID {
		w.problem("runner %s ran job %d, which is %s, and remembers: %s, job %d, %s: %s", r.ID, j.ID, j.Status, r.Outcome, r.JobID, r.Reason, r.Message)
	}
}

// checkLives: each life ended, and left each state within its deadline, or somebody said that it did not.
func (w *world) checkLives() {
	type stay struct {
		state   firerunner.State
		since   time.Time
		within  time.Duration // where it is not the state's own
		overdue bool
		ended   time.Time // when it became unwanted
	}
	stays := map[string]*stay{}
	for _, e := range w.log {
		s := stays[e.RunnerID]
		switch e.Kind {
		case firerunner.EventQueued:
			stays[e.RunnerID] = &stay{state: firerunner.Queued, since: e.at}
		case firerunner.EventTookJob:
			if s.state < firerunner.Ready { // GitLab was faster than the guest: it has a job's time from now on
				s.within, s.since = w.plan.deadlines.Of(firerunner.Running), e.at
			}
		case firerunner.EventOverdue:
			s.overdue = true
		case firerunner.EventUnwanted:
			s.ended = e.at
		case firerunner.EventMoved:
			within := max(s.within, w.plan.deadlines.Of(e.From))
			until := e.at
			if !s.ended.IsZero() && e.From < firerunner.Stopping {
				until = s.ended
			}
			if late := until.Sub(s.since) - within - w.slack(s.since, until); within > 0 && late > 0 && !s.overdue {
				w.problem("runner %s was %s for %s and nobody said so (%s too long)", e.RunnerID, e.From, e.at.Sub(s.since), late)
			}
			*s = stay{state: e.To, since: e.at, ended: s.ended}
		}
	}
}

// slack is how much longer than its deadline a state may last in a time: the daemon was dead, or could not write. A
// clock that jumps is no excuse.
func (w *world) slack(from, until time.Time) time.Duration {
	slack := 2 * time.Second
	for _, spans := range [][]span{w.downs, w.outages} {
		for _, s := range spans {
			if s.overlaps(from, until) {
				slack += s.until.Sub(s.from) + 30*time.Second
			}
		}
	}
	if w.shared() { // until another has seen that one is away, and has taken its place
		slack += 30 * time.Second
	}
	if from.Before(w.began.Add(w.plan.chaos)) {
		slack += 2 * time.Minute // GitLab may be slow to say whether it has a job
	}
	return slack
}

// checkReservations replays the event log: what was reserved on each host was never more than it has.
func (w *world) checkReservations() {
	ctx := context.Background()
	capacity, used := map[string]firerunner.Host{}, map[string]firerunner.Host{}
	for _, h := range w.plan.hosts {
		capacity[h.Name] = h
	}
	for _, e := range w.log {
		if e.Kind != firerunner.EventMoved || e.To != firerunner.Placed && e.To != firerunner.Gone {
			continue
		}
		r, err := w.store.Runner(ctx, e.RunnerID)
		if err != nil || r.Host == "" {
			continue // it never had a host
		}
		sign := 1
		if e.To == firerunner.Gone {
			sign = -1
		}
		u, c := used[r.Host], capacity[r.Host]
		u.VCPUs, u.MemoryMiB, u.Slots = u.VCPUs+sign*r.Size.VCPUs, u.MemoryMiB+sign*r.Size.MemoryMiB, u.Slots+sign
		used[r.Host] = u
		if u.VCPUs > c.VCPUs || u.MemoryMiB > c.MemoryMiB || u.Slots > c.Slots || u.Slots < 0 {
			w.problem("host %s at %s: %d vCPUs, %d MiB, %d slots are reserved", r.Host, e.at.Sub(w.began), u.VCPUs, u.MemoryMiB, u.Slots)
		}
	}
}
