package sim

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/firerunner/firerunner"
)

// Options is what a run is about.
type Options struct {
	Seed uint64
	// Tell is given each line of the timeline as it happens; nil: nobody looks.
	Tell func(line string)

	plan   *plan // nil: drawn from the seed
	tamper tamper
	done   func(w *world) bool // nil: at rest
}

// tamper is what a test does to one thing, where a plan speaks of chances.
type tamper struct {
	lose  func(w *world, s firerunner.Step) bool       // the step is never done
	life  func(w *world, id string, l *life)           // what a microVM has before it
	trip  func(w *world, what, id string, t trip) trip // a call to the driver
	event func(w *world, e firerunner.Event)           // as soon as it is written; may book, must not wait
	deaf  bool                                         // GitLab takes no word on a job
}

// Result is what a run has shown.
type Result struct {
	Seed     uint64
	Problems []string // what must not be, in the order in which it was found; empty: all is well
	Hash     string   // over everything that happened, with its time
	Unclear  int      // moments at which the replay depends on more than the seed
	Turns    int64
	Virtual  time.Duration
	Jobs     int
	Ran      int // jobs that ran to their own end
	Crashes  int
	Told     int // jobs that were failed for their microVM in a quiet time
	Harmed   int // microVMs to which something was done
}

// world is everything there is in a run.
type world struct {
	*scheduler
	o      Options
	plan   plan
	faults faults
	calm   bool

	gitlab *GitLab
	store  *Memory
	queue  stepQueue
	fleet  *fleet
	seats  []*seat
	writes *daemon // who is in a transaction

	generation int
	crashIn    int // acts until the daemon dies; 0: it does not
	crashes    int
	downs      []span // times without a daemon
	ending     []*span
	outages    []span
	awayGitLab int
	awayStore  int
	jumps      []time.Time
	lastID     int
	foreign    int64 // somebody else's runner in GitLab

	running  sync.WaitGroup
	lineMu   sync.Mutex
	problems []string
	sum      hash.Hash
	log      []logged // the event log, with the true time of each
	states   map[string]firerunner.State
	bare     map[firerunner.Demand]time.Time // since when jobs wait without a runner
	started  map[string]bool                 // runners whose gitlab-runner has started
	owed     []owed                          // jobs of which GitLab must be told
	rough    []span                          // times in which something went wrong by chance
	told     int
	stranded map[string]time.Time // since when nobody acts for a controller with live runners
}

// logged is an event and when it was truly written.
type logged struct {
	firerunner.Event
	at time.Time
}

// Run lives through one seed.
func Run(t *testing.T, o Options) (result Result) {
	synctest.Test(t, func(*testing.T) {
		w := newWorld(o)
		w.live()
		result = w.result()
	})
	return result
}

func newWorld(o Options) *world {
	w := &world{
		scheduler: newScheduler(o.Seed), o: o, sum: sha256.New(), states: map[string]firerunner.State{}, started: map[string]bool{}, stranded: map[string]time.Time{},
	}
	if o.plan != nil {
		w.plan = *o.plan
	} else {
		w.plan = drawPlan(w.scheduler, o.Seed)
	}
	w.faults = w.plan.faults
	w.seats = w.plan.seats()
	w.gitlab = NewGitLab(time.Now)
	w.gitlab.Changed = w.announce
	w.store = NewMemory(w.committed)
	w.fleet = &fleet{w: w, hosts: map[string]*host{}, vms: map[string]*microVM{}}
	for _, h := range w.plan.hosts {
		w.fleet.hosts[h.Name] = &host{Host: h}
	}
	w.foreign = w.gitlab.AddRunner(firerunner.CredentialRequest{ProjectID: 1, Tags: tagDocker, Description: "firerunner other abc"}).ID
	return w
}

// live is the whole run.
func (w *world) live() {
	for _, j := range w.plan.jobs {
		w.after(j.at, func() { w.ask(j) })
	}
	for _, m := range w.plan.moments {
		w.after(m.at, func() { w.happen(m) })
	}
	w.after(w.plan.chaos, w.becalm)
	w.every(30*time.Second, w.gitlab.SweepTimeouts)
	w.planCrash()
	for _, s := range w.seats {
		w.after(s.begins, func() { w.startDaemon(s) })
	}
	if w.shared() {
		w.every(time.Second, w.checkPeers)
	}
	done := w.o.done
	if done == nil {
		done = (*world).over
	}
	w.run(func() bool { return done(w) }, w.dueSteps)
	w.checkAfterwards()
	for _, s := range w.seats {
		w.kill(s.daemon)
	}
	w.running.Wait()
}

// becalm ends what goes wrong by chance. What was begun by then still ends by itself.
func (w *world) becalm() {
	w.say("calm")
	w.faults, w.calm, w.crashIn = faults{}, true, 0
	w.every(10*time.Second, w.giveUp)
	w.every(checkEvery, w.checkWaiting)
}

const checkEvery = 10 * time.Second

// giveUp is users who have read that what they asked for cannot be had.
func (w *world) giveUp() {
	refused := w.refused()
	for _, id := range w.gitlab.order {
		if j := w.gitlab.jobs[id]; j.Tags == tagDocker || j.Tags == tagHuge && refused[id] {
			w.cancel(id)
		}
	}
}

// refused are the jobs of which control said that they cannot be had.
func (w *world) refused() map[int64]bool {
	refused := map[int64]bool{}
	for _, e := range w.log {
		if e.Kind == firerunner.EventJobRefused {
			refused[e.JobID] = true
		}
	}
	return refused
}

func (w *world) every(d time.Duration, do func()) {
	w.after(d, func() {
		do()
		w.every(d, do)
	})
}

// drain is what "firerunner hosts drain" and "accept" do, in a process of their own.
func (w *world) drain(name string, drains bool) {
	ctx := context.Background()
	rows, _ := w.store.Hosts(ctx)
	for _, h := range rows {
		if h.Name == name {
			h.Draining = drains
			if err := w.store.Update(ctx, func(tx firerunner.Tx) error { return tx.SaveHost(ctx, h) }); err != nil {
				w.problem("draining: %v", err)
			}
		}
	}
}

// dueSteps are the queue's steps that the daemons may begin.
func (w *world) dueSteps() (begin []func(), next time.Time) {
	for _, s := range w.seats {
		d := s.daemon
		if d == nil || !d.works || w.held[d.mark()] {
			continue
		}
		rows, soon := w.queue.due(time.Now(), d)
		for _, row := range rows {
			begin = append(begin, func() { d.do(row) })
		}
		if next.IsZero() || !soon.IsZero() && soon.Before(next) {
			next = soon
		}
	}
	return begin, next
}

// committed is told of every transaction.
func (w *world) committed(events []firerunner.Event, steps []firerunner.Step) {
	for _, e := range events {
		w.log = append(w.log, logged{e, time.Now()})
		fmt.Fprintf(w.sum, "%v %+v\n", w.clock(), e)
		w.checkEvent(e)
		w.noteOwed(e)
		if w.o.tamper.event != nil {
			w.o.tamper.event(w, e)
		}
		w.say("EVENT "+string(e.Kind), "runner", e.RunnerID, "job", e.JobID, "from", e.From, "to", e.To, "actor", e.Actor, "reason", e.Reason, "message", e.Message)
	}
	w.queue.add(w, steps)
}

func (w *world) newID() string { w.lastID++; return fmt.Sprintf("r%015d", w.lastID) }

// problem notes what must not be.
func (w *world) problem(format string, args ...any) {
	text := fmt.Sprintf("%.3fs: ", w.clock().Seconds()) + fmt.Sprintf(format, args...)
	w.say("PROBLEM " + text)
	w.problems = append(w.problems, text)
}

func (w *world) result() Result {
	r := Result{
		Seed: w.o.Seed, Problems: w.problems, Hash: hex.EncodeToString(w.sum.Sum(nil)), Unclear: w.unclear, Turns: w.turns,
		Virtual: w.clock(), Jobs: len(w.gitlab.order), Crashes: w.crashes, Told: w.told,
	}
	for _, j := range w.gitlab.jobs {
		if len(j.ran) > 0 && (j.Status == firerunner.JobSuccess || j.fails) {
			r.Ran++
		}
	}
	for _, vm := range w.fleet.all {
		if len(vm.harm) > 0 {
			r.Harmed++
		}
	}
	return r
}
