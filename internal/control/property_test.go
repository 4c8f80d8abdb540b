package control_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/firerunner/firerunner"
)

// settle does all that is due, in the order in which it came, until nothing is.
func (w *world) settle() {
	for n := 0; len(w.steps) > 0; n++ {
		if n > 2000 {
			w.fail("it does not come to rest: %v", w.steps)
		}
		w.run(0)
	}
}

// level checks that there are no more runners than pending jobs want, and no fewer unless something is put off.
func (w *world) level() {
	for range 2 { // the first reads what nobody told, the second counts it
		w.now = w.now.Add(time.Second) // what was seen before this is asked for again
		w.deliverAll()
		w.task(w.control.Sweep)
		w.settle()
	}
	wanted := map[firerunner.Demand]int{}
	for _, j := range w.jobs {
		if j.Status == firerunner.JobPending {
			wanted[j.Demand()]++
		}
	}
	live, err := w.store.Runners(context.Background(), firerunner.RunnerQuery{Live: true})
	if err != nil {
		w.fail("%v", err)
	}
	supply := map[firerunner.Demand]int{}
	for _, r := range live {
		if r.Supply() {
			supply[r.Demand]++
		}
	}
	for _, tags := range []firerunner.TagSet{small, large} {
		d := firerunner.Demand{ProjectID: w.project, Tags: tags}
		if supply[d] > wanted[d] || supply[d] < wanted[d] && len(w.later) == 0 {
			w.fail("%d pending jobs want %s and %d runners supply it: %v", wanted[d], tags, supply[d], live)
		}
	}
}

func (w *world) ids() []string { return slices.Sorted(maps.Keys(w.vms)) }

func (w *world) deliverAll() {
	for _, id := range w.ids() {
		for w.deliver(id, false) {
			continue
		}
	}
}

// finish lets time and everybody go on until nothing is left, and checks that every job ran as often as it should.
func (w *world) finish() {
	for round := 0; ; round++ {
		w.level()
		live, err := w.store.Runners(context.Background(), firerunner.RunnerQuery{Live: true})
		if err != nil {
			w.fail("%v", err)
		}
		open := 0
		for _, j := range w.jobs {
			if !j.Status.Final() {
				open++
			}
		}
		if len(live) == 0 && open == 0 && len(w.vms) == 0 {
			break
		}
		if round > 60 {
			w.fail("something is left: %d open jobs, microVMs %v, runners %+v", open, w.ids(), live)
		}
		for _, id := range w.ids() {
			w.act(id)
		}
		w.now = w.now.Add(20 * time.Second)
		w.task(w.control.Expire)
		w.steps, w.later = append(w.steps, w.later...), nil
	}
	w.task(w.control.Reap)
	if len(w.runners) > 0 {
		w.fail("runners are left in GitLab: %v", w.runners)
	}
	for _, j := range w.jobs {
		if j.handouts > 1 || j.handouts == 0 && j.Status != firerunner.JobCanceled || j.Status == firerunner.JobRunning {
			w.fail("job %d is %s after %d hand-outs", j.ID, j.Status, j.handouts)
		}
	}
	w.steps, w.later = nil, nil
}

// Whatever happens in whatever order - jobs come, are cancelled, are swapped; hints and reports come late, twice or never;
// the daemon dies between any two of its acts - each job runs exactly once unless it was cancelled, no running job is
// killed, supply comes to equal demand, and nothing is left.
func TestAnyOrder(t *testing.T) {
	t.Parallel()
	var current *world
	outer, store, clean := t, modelStore(t, &current), true
	var number int64
	rapid.Check(t, func(t *rapid.T) {
		if !clean { // a course that failed has left things behind; the next one is to fail by itself
			store = modelStore(outer, &current)
		}
		clean = false
		number++
		w := newWorld(t.Fatalf, store, number)
		current = w
		w.start()
		pick := func(what string, n int) int { return rapid.IntRange(0, n-1).Draw(t, what) }
		anyJob := func() int64 { return slices.Sorted(maps.Keys(w.jobs))[pick("job", len(w.jobs))] }
		hint := func(id int64) {
			w.enqueue(firerunner.Step{Kind: firerunner.StepReadJob, ProjectID: w.project, JobID: id})
		}
		step := func(*rapid.T) {
			if len(w.steps) > 0 {
				w.run(pick("step", len(w.steps)))
			}
		}
		guest := func(*rapid.T) {
			if ids := w.ids(); len(ids) > 0 {
				w.act(ids[pick("guest", len(ids))])
			}
		}
		report := func(*rapid.T) {
			if ids := w.ids(); len(ids) > 0 {
				w.deliver(ids[pick("reporter", len(ids))], rapid.Bool().Draw(t, "again"))
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"job": func(t *rapid.T) {
				if len(w.jobs) > 5 {
					return
				}
				id := w.newJob(rapid.SampledFrom([]firerunner.TagSet{small, large}).Draw(t, "tags"))
				if rapid.IntRange(0, 3).Draw(t, "told") > 0 {
					hint(id)
				}
			},
			"cancel": func(t *rapid.T) {
				if len(w.jobs) > 0 && rapid.IntRange(0, 3).Draw(t, "really") == 0 {
					id := anyJob()
					w.cancel(id)
					if rapid.Bool().Draw(t, "told") {
						hint(id)
					}
				}
			},
			"hint": func(*rapid.T) {
				if len(w.jobs) > 0 {
					hint(anyJob())
				}
			},
			"step": step, "step2": step, "step3": step, "guest": guest, "guest2": guest, "report": report,
			"settle":  func(*rapid.T) { w.settle() },
			"sweep":   func(*rapid.T) { w.task(w.control.Sweep) },
			"reap":    func(*rapid.T) { w.task(w.control.Reap) },
			"crash":   func(t *rapid.T) { w.crashIn = rapid.IntRange(1, 12).Draw(t, "points") },
			"restart": func(*rapid.T) { w.dead = true; w.survive() },
			"time": func(t *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.IntRange(1, 70).Draw(t, "seconds")) * time.Second)
				w.steps, w.later = append(w.steps, w.later...), nil
				w.task(w.control.Expire)
			},
		})
		w.crashIn = 0
		w.finish()
		w.closed(t)
		clean = true
	})
}

// closed checks that the store knows how each job ended.
func (w *world) closed(t *rapid.T) {
	jobs, err := w.store.Jobs(context.Background(), firerunner.JobQuery{ProjectID: w.project, Statuses: []firerunner.JobStatus{firerunner.JobPending, firerunner.JobRunning}})
	if err != nil || len(jobs) > 0 {
		t.Fatalf("jobs are still open in the store: %v %v", jobs, err)
	}
}

// The daemon dies at the n-th point of a fixed course, for every n: with one job that runs, one that is cancelled
// before it is taken and one while it runs.
func TestEveryPoint(t *testing.T) {
	t.Parallel()
	var current *world
	store := modelStore(t, &current)
	for n := 1; ; n++ {
		w := newWorld(func(format string, args ...any) {
			t.Helper()
			t.Fatalf("crash at point %d: %s", n, fmt.Sprintf(format, args...))
		}, store, int64(n))
		current = w
		w.start()
		w.crashIn = n
		runs, early, late := w.newJob(small), w.newJob(large), w.newJob(small)
		w.task(w.control.Sweep)
		w.settle()
		w.cancel(early)
		w.enqueue(firerunner.Step{Kind: firerunner.StepReadJob, ProjectID: w.project, JobID: early})
		w.settle()
		for range 2 {
			for _, id := range w.ids() {
				w.act(id)
			}
			w.deliverAll()
			w.settle()
		}
		w.cancel(late)
		w.enqueue(firerunner.Step{Kind: firerunner.StepReadJob, ProjectID: w.project, JobID: late})
		w.settle()
		over := w.crashIn > 0 // the course ended before the crash
		w.crashIn = 0
		w.finish()
		if j := w.jobs[runs]; j.Status != firerunner.JobSuccess {
			t.Fatalf("crash at point %d: the job is %s", n, j.Status)
		}
		if over {
			if n < 40 {
				t.Fatalf("only %d points were passed", n)
			}
			return
		}
	}
}
