package sim

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// first is the runner that things are done to; those after it are left alone.
const first = "r000000000000001"

// fault makes the owner of a state disappear for the first runner: nobody moves it on any more.
type fault struct {
	tamper tamper
	takes  time.Duration // of the job
}

// faultsOf returns one for each state that has a deadline.
func faultsOf() map[firerunner.State]fault {
	never := func(what string) tamper { // the driver does not answer for so long
		return tamper{trip: func(w *world, did, id string, t trip) trip {
			if did == what && id == first && w.clock() < 8*time.Minute {
				t.noEffect, t.back = true, time.Hour
			}
			return t
		}}
	}
	is := func(change func(*life)) tamper {
		return tamper{life: func(_ *world, id string, l *life) {
			if id == first {
				change(l)
			}
		}}
	}
	return map[firerunner.State]fault{
		firerunner.Placed: {tamper: tamper{lose: func(w *world, s firerunner.Step) bool {
			return s.RunnerID == first && w.states[first] == firerunner.Placed && w.clock() < 20*time.Second
		}}},
		firerunner.Creating: {tamper: never("create")},
		firerunner.Booting:  {tamper: is(func(l *life) { l.never = true })},
		firerunner.Ready:    {tamper: is(func(l *life) { l.idle = true })},
		firerunner.Running: {takes: 24 * time.Hour, tamper: tamper{event: func(w *world, e firerunner.Event) {
			if e.Kind == firerunner.EventMoved && e.RunnerID == first && e.To == firerunner.Running {
				w.fleet.vms[first].mute = true // nobody says anything of it: neither its guest
				w.awayGitLab++                 // nor GitLab
				w.after(20*time.Minute, func() { w.awayGitLab-- })
			}
		}}},
		firerunner.Stopping: {tamper: never("destroy")},
	}
}

// Whatever state a runner is in when whoever should move it on is gone: it is not stuck. Its deadline passes, an event says
// so with job, host, image and last state, it stops, it is gone, and a job that had not begun runs in another.
func TestEveryState(t *testing.T) {
	t.Parallel()
	faulty := faultsOf()
	for _, row := range firerunner.Lifecycle() {
		if row.Within == 0 {
			continue // queued: see TestQueuedHasAReason
		}
		t.Run(row.State.String(), func(t *testing.T) {
			t.Parallel()
			f, there := faulty[row.State]
			require.True(t, there, "a state that nobody has thought of")
			takes := f.takes
			if takes == 0 {
				takes = 20 * time.Second
			}
			p := plan{
				projects: []int64{1}, deadlines: firerunner.DefaultDeadlines(), holdAfter: time.Minute,
				hosts: []firerunner.Host{{Name: "a", Driver: "sim", VCPUs: 8, MemoryMiB: 16384, Slots: 4}},
				jobs:  []wish{{at: time.Second, project: 1, tags: tagSmall, takes: takes}},
				chaos: time.Second, patience: 40 * time.Minute,
			}
			p.deadlines.JobTimeout = 10 * time.Minute
			var log []logged
			var job *Job
			r := Run(t, Options{Seed: 1, plan: &p, tamper: f.tamper, done: func(w *world) bool {
				done := w.over() && w.clock() > 3*time.Second
				if done {
					log, job = w.log, w.gitlab.jobs[w.gitlab.order[0]]
				}
				return done
			}})
			require.Empty(t, r.Problems)

			var path []firerunner.State
			var overdue *firerunner.Event
			for _, e := range log {
				switch {
				case e.RunnerID != first:
				case e.Kind == firerunner.EventMoved:
					path = append(path, e.To)
				case e.Kind == firerunner.EventOverdue && overdue == nil:
					overdue = &e.Event
				}
			}
			require.NotNil(t, overdue, "nobody said that it is overdue: %v", path)
			require.Equal(t, row.State, overdue.From)
			require.Contains(t, overdue.Message, row.State.String()+" for longer than")
			require.Contains(t, overdue.Message, "on host a")
			require.Contains(t, overdue.Message, ", image debian")
			if row.State > firerunner.Placed { // before, nobody has looked what the name means
				require.Contains(t, overdue.Message, "image debian (sha256:1)")
			}
			require.Equal(t, int64(1), overdue.ProjectID)
			if row.State >= firerunner.Running { // before, it has none: GitLab decides which one it gets
				require.Equal(t, job.ID, overdue.JobID)
			}
			require.Equal(t, []firerunner.State{firerunner.Stopping, firerunner.Gone}, path[len(path)-2:])
			if row.State < firerunner.Stopping {
				require.Equal(t, row.State, path[len(path)-3], "it goes no further than where its owner was lost")
			}
			if row.State != firerunner.Running {
				require.Equal(t, firerunner.JobSuccess, job.Status)
				require.Len(t, job.ran, 1)
				require.Equal(t, row.State == firerunner.Stopping, slices.Contains(job.ran, first))
			}
		})
	}
}

// A runner that waits for a host has no deadline; it has a reason at every moment, and goes when nobody wants it.
func TestQueuedHasAReason(t *testing.T) {
	t.Parallel()
	p := plan{
		projects: []int64{1}, deadlines: firerunner.DefaultDeadlines(), holdAfter: time.Minute,
		hosts: []firerunner.Host{{Name: "a", Driver: "sim", VCPUs: 1, MemoryMiB: 16384, Slots: 4}},
		jobs:  []wish{{at: time.Second, project: 1, tags: tagMedium, takes: time.Second, cancel: time.Hour}},
		chaos: time.Second, patience: 2 * time.Hour,
	}
	seen := 0
	r := Run(t, Options{Seed: 1, plan: &p, done: func(w *world) bool {
		if w.clock() < 3*time.Second {
			return false
		}
		if live, _ := w.store.Runners(t.Context(), firerunner.RunnerQuery{States: []firerunner.State{firerunner.Queued}}); len(live) > 0 {
			seen++
			if m := live[0].Message; m != "waits for placement" && !strings.HasPrefix(m, "1 host: ") {
				w.problem("no reason: %q", m)
			}
		}
		return w.over()
	}})
	require.Empty(t, r.Problems)
	require.Greater(t, seen, 3600)
}
