package sim

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

// What must hold at every instant.

// checkEvent looks at each event as it is written: states rise, each moved by its owner, from where the last one ended.
func (w *world) checkEvent(e firerunner.Event) {
	switch e.Kind {
	case firerunner.EventQueued:
		w.states[e.RunnerID] = firerunner.Queued
	case firerunner.EventMoved:
		if e.To <= e.From || !firerunner.MayMove(e.From, e.To, firerunner.Owner(e.Actor)) {
			w.problem("runner %s went from %s to %s by %s", e.RunnerID, e.From, e.To, e.Actor)
		}
		w.checkMover(e)
		if was := w.states[e.RunnerID]; was != e.From {
			w.problem("runner %s moved from %s, and it was %s", e.RunnerID, e.From, was)
		}
		w.states[e.RunnerID] = e.To
	case firerunner.EventNotice:
		if e.Actor == "guest" && e.Message == "gitlab-runner started" { // a guest says so once
			if w.started[e.RunnerID] {
				w.problem("a report of runner %s counted twice", e.RunnerID)
			}
			w.started[e.RunnerID] = true
		}
	}
}

// checkHandout looks at a job that GitLab has just given to one of our guests.
func (w *world) checkHandout(vm *microVM, j *Job) {
	if len(j.Handouts) > 1 {
		w.problem("job %d was given away twice: %v", j.ID, j.Handouts)
	}
	if j.Tags == tagHuge || j.Tags == tagDocker {
		w.problem("job %d with tags %s was given to microVM %s", j.ID, j.Tags, vm.spec.ID)
	}
}

// checkRun looks at a script that begins: a microVM runs one job, and a job runs in one microVM.
func (w *world) checkRun(vm *microVM, j *Job) {
	if len(vm.ran) > 1 {
		w.problem("microVM %s runs a second job: %v", vm.spec.ID, vm.ran)
	}
	if len(j.ran) > 1 {
		w.problem("job %d runs a second time: in %v", j.ID, j.ran)
	}
}

// checkKill looks at a microVM that is being destroyed: a job that runs in it must have earned that.
func (w *world) checkKill(vm *microVM) {
	if j := w.gitlab.jobs[vm.job]; j != nil && vm.alive && j.Status == firerunner.JobRunning && !w.excusedBut(vm, j, harmLost, harmMute) {
		r, _ := w.store.Runner(context.Background(), vm.spec.ID)
		w.problem("microVM %s is destroyed while job %d runs in it: %s, %s: %s", vm.spec.ID, j.ID, r.State, r.Reason, r.Message)
	}
}

// checkStop looks at a job that is told to stop.
func (w *world) checkStop(vm *microVM) {
	if j := w.gitlab.jobs[vm.job]; j != nil && j.Status == firerunner.JobRunning && !w.excusedBut(vm, j, harmLost, harmMute, harmStop) {
		r, _ := w.store.Runner(context.Background(), vm.spec.ID)
		w.problem("job %d in microVM %s is told to stop: %s, %s: %s", j.ID, vm.spec.ID, r.State, r.Reason, r.Message)
	}
}

// What is done to a microVM and is no reason to end its job: GitLab knows better than a guest that is not heard.
const (
	harmLost = "a report of it was lost"
	harmMute = "its agent hangs"
	harmStop = "its job was told to stop"
)

func (w *world) excused(vm *microVM, j *Job) bool { return w.excusedBut(vm, j) }

// excusedBut reports whether something that was done to a microVM, beside some things, explains that its job came to a bad
// end.
func (w *world) excusedBut(vm *microVM, j *Job, but ...string) bool {
	now := time.Now()
	for harm := range vm.harm {
		if !slices.Contains(but, harm) {
			return true
		}
	}
	if now.Sub(j.StartedAt) > j.Timeout || w.unseenJump(vm.madeAt) {
		return true
	}
	if slices.ContainsFunc(w.ending, func(s *span) bool { return s.overlaps(vm.madeAt, now) }) {
		return true
	}
	for _, s := range w.fleet.hosts[vm.spec.Host].missed { // not heard by chance for as long
		if s.overlaps(vm.madeAt, now) {
			return true
		}
	}
	for _, s := range w.fleet.hosts[vm.spec.Host].silence { // silent for long enough to be lost
		end := s.until
		if end.IsZero() {
			end = now
		}
		if s.overlaps(vm.madeAt, now) && end.Sub(s.from) > 45*time.Second {
			return true
		}
	}
	return false
}

// unseenJump reports whether the clock jumped since, while no daemon was there that could see it: whoever starts later does
// not know.
func (w *world) unseenJump(since time.Time) bool {
	return slices.ContainsFunc(w.jumps, func(at time.Time) bool {
		if at.Before(since) {
			return false
		}
		from, until := at.Add(-5*time.Second), at.Add(5*time.Second)
		for _, s := range w.outages { // it saw it, and could not write
			if s.overlaps(from, until) {
				until = s.until.Add(5 * time.Second)
			}
		}
		return slices.ContainsFunc(w.downs, func(s span) bool { return s.overlaps(from, until) })
	})
}

// noteDeletion looks at a runner that is being deleted in GitLab: it must be ours.
func (w *world) noteDeletion(id int64) {
	if r := w.gitlab.runners[id]; r != nil && !strings.HasPrefix(r.Description, "firerunner "+installation+" ") {
		w.problem("runner %d in GitLab is deleted, and it is not ours: %s", id, r.Description)
	}
}

// bareMost is how long a demand may be without any runner in a calm world: the longest pause after rejections, a sweep, and
// what a claim that is doubted takes.
const bareMost = 4 * time.Minute

// checkWaiting looks now and then, in a calm world, whether jobs wait that nobody sees to.
func (w *world) checkWaiting() {
	ctx := context.Background()
	live, _ := w.store.Runners(ctx, firerunner.RunnerQuery{Live: true})
	served, queued := map[firerunner.Demand]bool{}, 0
	for _, r := range live {
		served[r.Demand] = served[r.Demand] || r.Supply()
		if r.State == firerunner.Queued {
			queued++
		}
	}
	full := w.plan.queueSize > 0 && queued >= w.plan.queueSize
	before := w.bare
	w.bare = map[firerunner.Demand]time.Time{}
	for _, id := range w.gitlab.order {
		j := w.gitlab.jobs[id]
		d := j.Demand()
		if j.Status != firerunner.JobPending || j.Tags == tagHuge || j.Tags == tagDocker || served[d] || full || !w.anyWorks() {
			continue
		}
		since, known := before[d]
		if !known {
			since = time.Now()
		}
		w.bare[d] = since
		if bare := time.Since(since); bare > bareMost && bare < bareMost+checkEvery {
			w.problem("job %d has waited for %s, and there is no runner for it", id, bare)
		}
	}
}

// left says in words what is not at rest.
func (w *world) left() []string {
	var left []string
	for _, id := range w.gitlab.order {
		if j := w.gitlab.jobs[id]; !j.Status.Final() {
			left = append(left, sprint("job %d is %s in GitLab", id, j.Status))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.gitlab.runners)) {
		if r := w.gitlab.runners[id]; id != w.foreign {
			left = append(left, sprint("runner %d is in GitLab: %s", id, r.Description))
		}
	}
	for _, vm := range w.fleet.here() {
		left = append(left, sprint("microVM %s is on host %s", vm.spec.ID, vm.spec.Host))
	}
	ctx := context.Background()
	live, _ := w.store.Runners(ctx, firerunner.RunnerQuery{Live: true})
	for _, r := range live {
		left = append(left, sprint("runner %s is %s, %s: %s %s", r.ID, r.State, r.Desired, r.Reason, r.Message))
	}
	open, _ := w.store.Jobs(ctx, firerunner.JobQuery{
		OursOnly: true, Statuses: []firerunner.JobStatus{firerunner.JobPending, firerunner.JobRunning, firerunner.JobCanceling},
	})
	for _, j := range open {
		left = append(left, sprint("job %d is %s in the store", j.ID, j.Status))
	}
	return left
}

// over reports whether the run is: everything is at rest, or should long have been.
func (w *world) over() bool {
	if !w.calm || !w.allServe() {
		return false
	}
	if w.clock() > w.plan.chaos+w.plan.patience {
		w.problem("it does not come to rest: %s", strings.Join(w.left(), "; "))
		return true
	}
	return w.atRest()
}

// atRest reports whether nothing is left. It is asked often, so what is quickly seen comes first.
func (w *world) atRest() bool {
	return w.gitlab.open == 0 && len(w.fleet.vms) == 0 && len(w.gitlab.runners) == 1 && len(w.left()) == 0
}
