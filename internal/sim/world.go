package sim

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
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
	daemon *daemon

	generation int
	crashIn    int // acts until the daemon dies; 0: it does not
	crashes    int
	downs      []span // times without a daemon
	ending     []*span
	outages    []span
	awayGitLab int
	awayStore  int
	clockOff   atomic.Int64 // of the daemon's clock
	jumped     time.Duration
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
		scheduler: newScheduler(o.Seed), o: o, sum: sha256.New(), states: map[string]firerunner.State{}, started: map[string]bool{},
	}
	if o.plan != nil {
		w.plan = *o.plan
	} else {
		w.plan = drawPlan(w.scheduler)
	}
	w.faults = w.plan.faults
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
	w.startDaemon()
	done := w.o.done
	if done == nil {
		done = (*world).over
	}
	w.run(func() bool { return done(w) }, w.dueSteps)
	w.checkAfterwards()
	w.kill()
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

// ask makes a job as a user does.
func (w *world) ask(j wish) {
	job := w.gitlab.Push(j.project, j.tags, w.plan.deadlines.JobTimeout)
	job.takes, job.fails = j.takes, j.fails
	w.say("job", "job", job.ID, "project", j.project, "tags", j.tags, "takes", j.takes, "fails", j.fails)
	if j.cancel > 0 {
		w.after(j.cancel, func() { w.cancel(job.ID) })
	}
	if j.foreign > 0 {
		w.after(j.foreign, func() { w.takeAway(job) })
	}
}

func (w *world) cancel(id int64) {
	if j := w.gitlab.jobs[id]; !j.Status.Final() {
		w.say("job cancelled", "job", id)
		j.cancelled = time.Now()
		w.gitlab.Cancel(id)
	}
}

// takeAway is a runner of somebody else that takes a pending job.
func (w *world) takeAway(j *Job) {
	if j.Status != firerunner.JobPending {
		return
	}
	j.Runner, j.Handouts = w.foreign, append(j.Handouts, w.foreign)
	w.gitlab.move(j, firerunner.JobRunning)
	w.after(w.between(time.Second, time.Minute), func() { w.gitlab.Finish(j.ID, firerunner.JobSuccess, "") })
}

func (w *world) anyJob() int64 {
	if len(w.gitlab.order) == 0 {
		return 1
	}
	return w.gitlab.order[w.chance.IntN(len(w.gitlab.order))]
}

// announce sends GitLab's webhooks about a job.
func (w *world) announce(j *Job) {
	w.say("gitlab", "job", j.ID, "status", j.Status, "failure", j.Failure)
	w.trace("job", fmt.Sprint(j.ID), string(j.Status))
	if w.happens(w.faults.hookLost) {
		return
	}
	runner := "null"
	if j.Runner != 0 {
		runner = fmt.Sprintf(`{"id":%d}`, j.Runner)
	}
	body := fmt.Sprintf(`{"object_kind":"build","build_id":%d,"build_status":%q,"project_id":%d,"project":{"path_with_namespace":%q},"runner":%s}`,
		j.ID, j.Status, j.ProjectID, j.ProjectPath, runner)
	key := fmt.Sprintf("%d-%s", j.ID, j.Status)
	times := 1
	if w.happens(w.faults.hookTwice) {
		times = 2
	}
	for range times {
		delay := w.between(5*time.Millisecond, 200*time.Millisecond)
		if w.happens(w.faults.hookLate) {
			delay = w.between(time.Second, 3*time.Minute)
		}
		w.after(delay, func() { w.deliver(key, body) })
	}
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

func (w *world) configured() []firerunner.Host { return slices.Clone(w.plan.hosts) }

// dueSteps are the queue's steps that the daemon may begin.
func (w *world) dueSteps() (begin []func(), next time.Time) {
	d := w.daemon
	if !d.works {
		return nil, time.Time{}
	}
	rows, next := w.queue.due(time.Now())
	for _, row := range rows {
		begin = append(begin, func() { d.do(row) })
	}
	return begin, next
}

// committed is told of every transaction.
func (w *world) committed(events []firerunner.Event, steps []firerunner.Step) {
	for _, e := range events {
		w.log = append(w.log, logged{e, time.Now()})
		fmt.Fprintf(w.sum, "%v %+v\n", w.clock(), e)
		w.checkEvent(e)
		if w.o.tamper.event != nil {
			w.o.tamper.event(w, e)
		}
		w.say("EVENT "+string(e.Kind), "runner", e.RunnerID, "job", e.JobID, "from", e.From, "to", e.To, "actor", e.Actor, "reason", e.Reason, "message", e.Message)
	}
	w.queue.add(w, steps)
}

func (w *world) wallClock() time.Time { return time.Now().Add(time.Duration(w.clockOff.Load())) }

func (w *world) newID() string { w.lastID++; return fmt.Sprintf("r%015d", w.lastID) }

// say adds a line to the timeline.
func (w *world) say(what string, fields ...any) {
	if w.o.Tell == nil {
		return
	}
	line := fmt.Sprintf("%10.4f %s", w.clock().Seconds(), what)
	for i := 0; i+1 < len(fields); i += 2 {
		if text := fmt.Sprint(fields[i+1]); text != "" && text != "0" && text != "state(0)" {
			line += fmt.Sprintf(" %v=%s", fields[i], text)
		}
	}
	w.lineMu.Lock()
	defer w.lineMu.Unlock()
	w.o.Tell(line)
}

// trace adds to the sum of everything that happened outside of the store.
func (w *world) trace(what, a, b string) {
	fmt.Fprintf(w.sum, "%v %s %s %s\n", w.clock(), what, a, b)
}

// problem notes what must not be.
func (w *world) problem(format string, args ...any) {
	text := fmt.Sprintf("%.3fs: ", w.clock().Seconds()) + fmt.Sprintf(format, args...)
	w.say("PROBLEM " + text)
	w.problems = append(w.problems, text)
}

func (w *world) result() Result {
	r := Result{
		Seed: w.o.Seed, Problems: w.problems, Hash: hex.EncodeToString(w.sum.Sum(nil)), Unclear: w.unclear, Turns: w.turns,
		Virtual: w.clock(), Jobs: len(w.gitlab.order), Crashes: w.crashes,
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

// logger puts what a daemon logs into the timeline, as long as it lives.
func (w *world) logger(d *daemon) *slog.Logger {
	if w.o.Tell == nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(lineWriter{w, d}, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

type lineWriter struct {
	w *world
	d *daemon
}

func (l lineWriter) Write(line []byte) (int, error) {
	if !l.d.dead.Load() {
		l.w.say(fmt.Sprintf("  log: %s", line[:max(len(line)-1, 0)]))
	}
	return len(line), nil
}
