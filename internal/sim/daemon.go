package sim

import (
	"context"
	"fmt"
	"net/http/httptest"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/control"
	"github.com/firerunner/firerunner/internal/intake"
	"github.com/firerunner/firerunner/internal/peers"
)

// daemon is one process: control, intake, and who runs its steps. It dies whole.
type daemon struct {
	*seat
	w        *world
	keeper   *peers.Keeper // nil: it is the only controller
	standing standIns
	number   int
	control  *control.Control
	intake   *intake.Intake // nil: the door is closed
	steps    map[firerunner.StepKind]firerunner.StepFunc
	leaving  bool
	works    bool               // it runs steps
	hurry    context.CancelFunc // nil: it was not told to end

	ctx       context.Context
	stepping  context.Context // ends when steps must
	stopSteps context.CancelFunc
	late      map[string]int // calls to the driver without the lease, by runner
	cancel    context.CancelFunc
	dead      atomic.Bool
	died      chan struct{}
	started   chan struct{} // closed when Start has returned
	goes      sync.WaitGroup
}

type nameKey struct{}

// named says in a context who acts, so that turns can be told apart.
func named(ctx context.Context, who string) context.Context {
	return context.WithValue(ctx, nameKey{}, who)
}

// turn waits for the daemon's turn. A point at which it may die counts.
func (d *daemon) turn(ctx context.Context, what string, counts bool) error {
	if d.dead.Load() {
		return errDead
	}
	who, _ := ctx.Value(nameKey{}).(string)
	if task, ok := pprof.Label(ctx, "task"); ok {
		if who = task; ctx.Value(standKey{}) != nil {
			who = fmt.Sprint(task, " for ", ctx.Value(standKey{}))
		}
	}
	d.w.take(d.mark() + "|" + who + "|" + what)
	if d.dead.Load() {
		return errDead
	}
	if counts && d.w.strikes() {
		d.crash(what)
		return errDead
	}
	return nil
}

// installation marks what is ours.
const installation = "sim1"

// startDaemon starts the next process on what is there.
func (w *world) startDaemon(s *seat) {
	w.generation++
	d := &daemon{seat: s, w: w, late: map[string]int{}, number: w.generation, died: make(chan struct{}), started: make(chan struct{})}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.stepping, d.stopSteps = context.WithCancel(d.ctx)
	s.daemon = d
	if !w.shared() {
		w.queue.takeBack(s.name)
	}
	w.say("daemon starts", "number", d.number, "controller", s.name)
	c, err := d.newControl(s.name)
	if err != nil {
		w.problem("control.New: %v", err)
		return
	}
	d.control, d.steps = c, d.allSteps(c)
	in, err := intake.New(intake.Config{
		Store: daemonStore{d, w.store}, Tokens: []firerunner.Secret{hookToken}, Now: d.now, Logger: w.logger(d),
	})
	if err != nil {
		w.problem("intake.New: %v", err)
		return
	}
	w.running.Go(func() {
		defer close(d.started)
		ctx := named(d.ctx, "boot")
		err := d.join()
		if err == nil {
			err = c.SyncHosts(ctx, d.configured())
		}
		if err == nil {
			d.works = true
			err = c.Start(named(d.ctx, "loop"))
		}
		if err == nil && d.keeper != nil {
			d.keeper.Serve()
		}
		if err == nil && d.turn(ctx, "open the door", true) == nil {
			d.intake = in
			return
		}
		if d.turn(ctx, "give up", false) == nil { // its supervisor starts it again
			w.say("daemon could not start", "error", err)
			d.crash("start")
		}
	})
}

func image() firerunner.Image { return firerunner.Image{Name: "debian", Digest: "sha256:1"} }

// strikes reports whether the daemon dies here.
func (w *world) strikes() bool {
	if w.crashIn <= 0 {
		return false
	}
	w.crashIn--
	return w.crashIn == 0
}

// crash ends the daemon between two acts, and books its successor. Whoever has the turn calls it.
func (d *daemon) crash(where string) {
	w := d.w
	w.crashes++
	down := w.drawDowntime()
	w.downs = append(w.downs, span{from: time.Now(), until: time.Now().Add(down)})
	w.say("daemon dies", "number", d.number, "controller", d.name, "at", where, "down", down)
	w.kill(d)
	w.after(down, func() {
		if !d.gone {
			w.planCrash()
			w.startDaemon(d.seat)
		}
	})
}

// kill makes the daemon's every act fail from now on, and waits for its goroutines beside the turns.
func (w *world) kill(d *daemon) {
	if d == nil || d.dead.Load() {
		return
	}
	delete(w.held, d.mark())
	d.dead.Store(true)
	d.works, d.intake = false, nil
	close(d.died)
	d.cancel()
	w.release(func(who string) bool { return strings.HasPrefix(who, d.mark()+"|") })
	w.running.Go(func() {
		<-d.started
		d.endPeers()
		d.control.Close()
		d.goes.Wait()
	})
}

// terminate is SIGTERM: the daemon ends its work, and another version takes its place.
func (w *world) terminate(s *seat) {
	d := s.daemon
	if d == nil || !d.works || d.leaving || d.intake == nil || w.calm {
		return
	}
	if d.hurry != nil { // the second time cuts the grace short
		d.hurry()
		return
	}
	if d.handsOver() {
		w.say("daemon hands over", "number", d.number, "controller", s.name)
		w.running.Go(d.leave)
		return
	}
	hurry, cancel := context.WithCancel(d.ctx)
	d.hurry = cancel
	grace := w.between(0, 3*time.Minute)
	w.say("daemon is told to end", "number", d.number, "grace", grace)
	ending := &span{from: time.Now()}
	w.ending = append(w.ending, ending)
	w.running.Go(func() {
		defer cancel()
		left := d.control.Shutdown(named(d.ctx, "shutdown"), hurry, grace, 30*time.Second)
		if d.turn(d.ctx, "ended", false) != nil {
			return
		}
		w.say("daemon ended", "number", d.number, "left", left)
		ending.until = time.Now()
		if d.keeper != nil {
			d.leave()
			return
		}
		d.crash("its end")
	})
}

// hookToken is what webhooks come with.
const hookToken = "sim-hook"

// deliver brings a webhook to whoever is there. GitLab does not send it again.
func (w *world) deliver(key string, body string) {
	d := w.doorkeeper()
	if d == nil || d.intake == nil {
		w.say("webhook refused: nobody is there", "webhook", key)
		return
	}
	door := d.intake
	d.goes.Go(func() {
		req := httptest.NewRequestWithContext(named(d.ctx, "webhook "+key), "POST", "/webhook", strings.NewReader(body))
		req.Header.Set("X-Gitlab-Event", "Job Hook")
		req.Header.Set("X-Gitlab-Token", hookToken)
		req.Header.Set("webhook-id", key)
		answer := httptest.NewRecorder()
		door.ServeHTTP(answer, req)
		if !d.dead.Load() {
			w.say("webhook answered", "webhook", key, "status", answer.Code)
		}
	})
}
