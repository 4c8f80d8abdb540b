package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// promptly is within what GitLab has to know that a job's microVM was killed, once those who are to notice live: see evidence.
const promptly = 10 * time.Second

// saidIn finds what a job wrote about where it is.
var saidIn = regexp.MustCompile(regexp.QuoteMeta(said) + `(fr-\S+)`)

// record is what is known of a job from all sides once everything is over.
type record struct {
	gitlabtest.Job
	plan   *job
	killed *vmKill
	retry  *gitlabtest.Job // the one that GitLab made of it
}

// read takes the rows and events of a site for the checks, once its controllers have ended, and holds the site to what
// must be true of them.
func (w *world) read(ctx context.Context, s *site) {
	rows, err := s.store.Runners(ctx, firerunner.RunnerQuery{})
	if err != nil {
		w.wrong("%v", err)
		return
	}
	events, err := s.store.Events(ctx, firerunner.EventQuery{})
	if err != nil {
		w.wrong("%v", err)
		return
	}
	w.events[s.name] = events
	w.checkCapacity(s, rows, events)
	takers, had := map[int64][]string{}, map[string][]int64{}
	for _, e := range events {
		if e.Kind == firerunner.EventTookJob && !slices.Contains(takers[e.JobID], e.RunnerID) {
			takers[e.JobID], had[e.RunnerID] = append(takers[e.JobID], e.RunnerID), append(had[e.RunnerID], e.JobID)
		}
	}
	for runner, jobs := range had {
		if len(jobs) > 1 {
			w.wrong("%s: runner %s took %d jobs, by the events: %v", s.name, runner, len(jobs), jobs)
		}
	}
	of := map[int64]string{} // by id in GitLab
	for _, r := range rows {
		if r.GitLabID != 0 {
			of[r.GitLabID] = r.ID
		}
	}
	for _, p := range s.projects {
		for _, j := range w.gitlab.Jobs(gitlabtest.JobFilter{ProjectID: p.ID}) {
			w.checkJob(s, w.record(j), takers[j.ID], of)
		}
	}
}

func (w *world) record(j gitlabtest.Job) record {
	r := record{Job: j, plan: w.jobs[j.Name]}
	w.mu.Lock()
	for i := range w.vmKills {
		if w.vmKills[i].Job == j.ID {
			r.killed = &w.vmKills[i]
		}
	}
	w.mu.Unlock()
	for _, other := range w.gitlab.Jobs(gitlabtest.JobFilter{ProjectID: j.ProjectID, Name: j.Name}) {
		if other.RetryOf == j.ID {
			r.retry = &other
		}
	}
	return r
}

// checkJob holds one job to its plan, and to one microVM.
func (w *world) checkJob(s *site, r record, takers []string, of map[int64]string) {
	bad := func(format string, args ...any) {
		w.wrong("%s: job %d (%s), %s %s: %s", s.name, r.ID, r.Name, r.Status, r.FailureReason, fmt.Sprintf(format, args...))
	}
	if !r.Status.Finished() {
		bad("it never ended")
		return
	}
	switch {
	case r.killed != nil:
		w.checkKilled(r, bad)
	case r.Status == gitlabtest.StatusCanceled && r.plan.cancel > 0:
	case r.plan.fails && (r.Status != gitlabtest.StatusFailed || r.FailureReason != "script_failure"):
		bad("it was to fail by its script")
	case !r.plan.fails && r.Status != gitlabtest.StatusSuccess:
		bad("it was to succeed")
	}
	if len(r.Handouts) == 0 {
		if r.Status != gitlabtest.StatusCanceled {
			bad("it has ended, and nobody was given it")
		}
		return
	}
	if len(r.Handouts) > 1 {
		bad("GitLab gave it away %d times", len(r.Handouts))
	}
	runner := of[r.RunnerID]
	if runner == "" {
		bad("runner %d in GitLab that had it is none that we know", r.RunnerID)
	}
	// Who was cancelled or killed at once may have been gone before anybody could write down that it had begun.
	if hasty := r.Status == gitlabtest.StatusCanceled || r.killed != nil; len(takers) > 1 || len(takers) == 0 && !hasty {
		bad("%d runners took it, by the events: %v", len(takers), takers)
	} else if len(takers) == 1 && takers[0] != runner {
		bad("runner %s took it by the events, and GitLab gave it to %s", takers[0], runner)
	}
	places := saidIn.FindAllStringSubmatch(w.gitlab.Trace(r.ID), -1)
	if len(places) > 1 || len(places) == 0 && r.Status != gitlabtest.StatusCanceled && r.killed == nil {
		bad("it says %d times where it ran", len(places))
	}
	for _, p := range places {
		if p[1] != hostname(runner) {
			bad("it says that it ran in %s, and its runner is %s", p[1], runner)
		}
	}
	if s.real {
		return
	}
	w.fleet.mu.Lock()
	defer w.fleet.mu.Unlock()
	in := w.fleet.guests.jobs[r.ID]
	if len(in) != 1 || in[0] != runner {
		defer bad("the guests saw it in %v", in)
	}
	if jobs := w.fleet.vms[runner]; len(jobs) > 1 {
		defer bad("its guest saw %d jobs: %v", len(jobs), jobs)
	}
}

// checkKilled holds GitLab to have known at once of a job whose microVM was killed.
func (w *world) checkKilled(r record, bad func(string, ...any)) {
	took := r.FinishedAt.Sub(r.killed.At)
	switch {
	case r.Status != gitlabtest.StatusFailed || r.FailureReason != firerunner.SystemFailure:
		bad("microVM %s was killed under it, and it ended %s later", r.killed.VM, took.Round(time.Millisecond))
		return
	case r.FinishedAt.Sub(w.evidence(r)) > promptly:
		bad("microVM %s was killed under it, and GitLab knew %s later, %s after the last controller was started again: more than %s",
			r.killed.VM, took.Round(time.Millisecond), r.FinishedAt.Sub(w.evidence(r)).Round(time.Millisecond), promptly)
	}
	if due := r.plan.retries && r.RetriesCount < mostRetries; due != (r.retry != nil) {
		bad("microVM %s was killed under it; a retry is due: %t, and there is one: %t", r.killed.VM, due, r.retry != nil)
	}
}

// evidence is from when on somebody could know that a microVM was killed: its end, or the last start of a controller that was
// to notice, if that was killed meanwhile. flintlockd does not notice, so the silence of a guest is all that there is; and a
// controller that begins gives each guest its whole silence anew, since it cannot know who called while it was dead.
func (w *world) evidence(r record) time.Time {
	from := r.killed.At
	for _, k := range w.kills {
		if k.site.real == r.killed.Real && k.Started.After(from) && k.At.Before(r.FinishedAt) {
			from = k.Started
		}
	}
	return from
}

// checkCapacity lives through the event log: what each host carried at each moment, and in which states each runner was.
func (w *world) checkCapacity(s *site, rows []firerunner.Runner, events []firerunner.Event) {
	type use struct{ vcpus, memory, slots int }
	byID := map[string]firerunner.Runner{}
	for _, r := range rows {
		byID[r.ID] = r
	}
	limit := use{hostVCPUs, hostMemory, hostSlots}
	if s.real {
		limit = use{8, 8192, realSlots}
	}
	used, state, addresses := map[string]use{}, map[string]firerunner.State{}, map[string]string{}
	for _, e := range events {
		if e.Kind != firerunner.EventMoved {
			continue
		}
		r, known := byID[e.RunnerID]
		if !known {
			w.wrong("%s: an event of runner %s, which has no row", s.name, e.RunnerID)
			continue
		}
		if e.To <= state[r.ID] {
			w.wrong("%s: runner %s went from %s to %s", s.name, r.ID, state[r.ID], e.To)
		}
		held := state[r.ID] >= firerunner.Placed && state[r.ID] < firerunner.Gone
		state[r.ID] = e.To
		holds := e.To >= firerunner.Placed && e.To < firerunner.Gone && r.Host != ""
		at, u := r.Host+" "+r.Address.String(), used[r.Host]
		switch {
		case holds && !held:
			u = use{u.vcpus + r.Size.VCPUs, u.memory + r.Size.MemoryMiB, u.slots + 1}
			if other := addresses[at]; r.Address.IsValid() && other != "" {
				w.wrong("%s: runners %s and %s had %s at one time", s.name, other, r.ID, at)
			}
			addresses[at] = r.ID
		case held && !holds && r.Host != "":
			u = use{u.vcpus - r.Size.VCPUs, u.memory - r.Size.MemoryMiB, u.slots - 1}
			delete(addresses, at)
		}
		used[r.Host] = u
		if u.vcpus > limit.vcpus || u.memory > limit.memory || u.slots > limit.slots {
			w.wrong("%s: host %s carried %+v at event %d, of %+v", s.name, r.Host, u, e.ID, limit)
		}
	}
	for _, r := range rows {
		if r.State != firerunner.Gone {
			w.wrong("%s: runner %s is %s at the end", s.name, r.ID, r.State)
		} else if r.Outcome == "" {
			w.wrong("%s: runner %s is gone without an outcome", s.name, r.ID)
		}
	}
	if s.real {
		return
	}
	for i, h := range w.fleet.hosts {
		if peak := h.Counters().Peak; peak.VCPUs > hostVCPUs || peak.MemoryMiB > hostMemory {
			w.wrong("machines of %s had %+v together", hostName(i), peak)
		}
	}
}
