package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/control"
	"github.com/firerunner/firerunner/internal/peers"
)

// What cmd/firerunner wires around peers, with the models.

// leaseTime is a little crooked, so that nothing of it ends at the instant at which something else does.
const leaseTime = 5*time.Second + 7*time.Microsecond

type standKey struct{}

// standIn is all that acts for a controller that is away.
type standIn struct {
	control *control.Control
	life    context.Context // ends when it is given back
	end     context.CancelFunc
	steps   sync.WaitGroup
	served  bool
}

// standIns are those of a process, by name.
type standIns struct {
	mu  sync.Mutex
	all map[string]*standIn
}

func (s *standIns) get(name string) *standIn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[name]
}

func (s *standIns) put(name string, in *standIn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[string]*standIn{}
	}
	if s.all[name] = in; in == nil {
		delete(s.all, name)
	}
}

// join makes the process one of several, if there are.
func (d *daemon) join() error {
	w := d.w
	if !w.shared() {
		return nil
	}
	store := daemonStore{d, w.store}
	keeper, err := peers.Join(named(d.ctx, "keeper"), peers.Config{
		Leases: store, Registry: store, Self: firerunner.Controller{Name: d.name, Driver: "sim", StartedAt: d.now()},
		Holder: "holder " + d.name, Logger: w.logger(d), TTL: leaseTime,
		Bearers: d.bearers, Left: d.left,
		Bury: func(ctx context.Context, name string) error {
			if err := d.turn(ctx, "queue.bury "+name, true); err != nil {
				return err
			}
			w.queue.takeBack(name)
			return nil
		},
		CanStandIn: func(firerunner.Controller) bool { return w.plan.remote },
		StandIn:    d.standIn, GiveBack: d.giveBack,
		Lost: func(err error) {
			w.say("lease lost", "controller", d.name, "error", err)
			w.running.Go(d.leave)
		},
	})
	if err != nil {
		return err
	}
	d.keeper = keeper
	if err := d.turn(named(d.ctx, "boot"), "queue.take back", true); err != nil {
		return err
	}
	w.queue.takeBack(d.name)
	return nil
}

func (d *daemon) bearers(ctx context.Context) ([]string, error) {
	live, err := daemonStore{d, d.w.store}.Runners(ctx, firerunner.RunnerQuery{Live: true})
	var names []string
	for _, r := range live {
		if r.State >= firerunner.Placed && !slices.Contains(names, r.Controller) {
			names = append(names, r.Controller)
		}
	}
	return names, err
}

func (d *daemon) left(ctx context.Context, controller string) (bool, error) {
	names, err := d.bearers(ctx)
	return slices.Contains(names, controller) ||
		slices.ContainsFunc(d.w.fleet.here(), func(vm *microVM) bool { return vm.owner == controller }), err
}

func (d *daemon) standIn(ctx context.Context, name string) error {
	c, err := d.newControl(name)
	if err != nil {
		return err
	}
	in := &standIn{control: c}
	in.life, in.end = context.WithCancel(d.ctx)
	d.standing.put(name, in)
	d.w.say("stands in", "number", d.number, "controller", name)
	ctx = context.WithValue(named(ctx, "for "+name), standKey{}, name)
	if err := c.Start(ctx); err != nil {
		return err
	}
	if err := d.turn(ctx, "queue.serve "+name, true); err != nil {
		return err
	}
	d.w.queue.takeBack(name)
	in.served = true
	return nil
}

func (d *daemon) giveBack(ctx context.Context, name string) error {
	in := d.standing.get(name)
	if in == nil {
		return nil
	}
	in.end()
	if err := d.turn(ctx, "queue.leave "+name, true); err != nil && !errors.Is(err, errDead) {
		return err
	}
	in.served = false
	in.steps.Wait()
	in.control.Close()
	d.standing.put(name, nil)
	return nil
}

// serves reports whether the process begins the steps of a controller.
func (d *daemon) serves(controller string) bool {
	if controller == "" || controller == d.name {
		return true
	}
	in := d.standing.get(controller)
	return in != nil && in.served
}

// beginStep counts a step that is done for another controller, until the returned function is called.
func (d *daemon) beginStep(controller string) (done func()) {
	in := d.standing.get(controller)
	if in == nil {
		return func() {}
	}
	in.steps.Add(1)
	return in.steps.Done
}

// allSteps gives each step to who acts for the controller that it names.
func (d *daemon) allSteps(c *control.Control) map[firerunner.StepKind]firerunner.StepFunc {
	steps := c.Steps()
	own := steps[firerunner.StepAdvance]
	steps[firerunner.StepAdvance] = func(ctx context.Context, s firerunner.Step) error {
		if s.Controller == d.name || s.Controller == "" {
			return own(ctx, s)
		}
		in := d.standing.get(s.Controller)
		if in == nil {
			return firerunner.Later(time.Second, fmt.Sprintf("nobody acts for controller %q here", s.Controller))
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(in.life, cancel)()
		return in.control.Steps()[firerunner.StepAdvance](ctx, s)
	}
	return steps
}

// handsOver reports whether the others can go on with what is ours.
func (d *daemon) handsOver() bool {
	return d.keeper != nil && d.w.plan.remote && len(d.keeper.Others()) > 0
}

// leave is the end of a process that touches no microVM: told to end, or because its lease is another's.
func (d *daemon) leave() {
	ctx := named(d.ctx, "leave")
	if d.turn(ctx, "leave", false) != nil || d.leaving {
		return
	}
	d.leaving = true
	select {
	case <-d.started:
	case <-d.died:
		return
	}
	if err := d.keeper.Rest(ctx); err != nil {
		d.w.say("could not rest", "error", err)
	}
	d.control.Close()
	if d.turn(ctx, "queue.stop", true) != nil {
		return
	}
	d.works = false
	d.stopSteps()
	d.goes.Wait()
	live, err := d.w.store.Runners(ctx, firerunner.RunnerQuery{Live: true})
	live = slices.DeleteFunc(live, func(r firerunner.Runner) bool { return r.Controller != d.name || r.State < firerunner.Placed })
	if err := d.keeper.Leave(ctx, err == nil && len(live) == 0); err != nil {
		d.w.say("could not leave", "error", err)
	}
	if d.turn(ctx, "ended", false) == nil {
		d.crash("its end")
	}
}

// endPeers waits for what is left of a dead process.
func (d *daemon) endPeers() {
	if d.keeper == nil {
		return
	}
	_ = d.keeper.Leave(d.ctx, false)
	d.standing.mu.Lock()
	left := d.standing.all
	d.standing.all = nil
	d.standing.mu.Unlock()
	for _, in := range left {
		in.end()
		in.control.Close()
	}
}
