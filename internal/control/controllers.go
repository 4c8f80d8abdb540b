package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/firerunner/firerunner"
)

// Peers is what control knows of the other controllers of its site. All of it is asked often and answers at once.
type Peers struct {
	// Under fails with Conflict where our lease is over: it is the first thing in each transaction.
	Under func(ctx context.Context, tx firerunner.Tx) error
	// Holds reports whether our lease is surely ours now: asked before something is done outside of the database.
	Holds func() bool
	// Leads reports whether what is done once for the whole site is ours to do now.
	Leads func() bool
	// Away reports whether nobody acts for a controller now.
	Away func(controller string) bool
	// On returns the microVMs that the others' drivers have on a host, as far as is recorded: ours does not list them. It
	// reads the database.
	On func(ctx context.Context, host string) ([]string, error)
}

// under checks, as the first thing in a transaction, that we still may write. That we may not is never a chance: whoever
// writes late was suspended, or cut off from the database, or takes itself for another.
func (c *Control) under(ctx context.Context, tx firerunner.Tx) error {
	if c.Peers.Under == nil {
		return nil
	}
	err := c.Peers.Under(ctx, tx)
	if firerunner.CodeOf(err) == firerunner.Conflict {
		c.Logger.Error("a late write was refused: the lease of this controller is over", "controller", c.Controller, "error", err)
	}
	return err
}

// leads reports whether the site's periodic tasks are ours. Who stands in for another controller has none.
func (c *Control) leads() bool {
	return !c.StandsIn && (c.Peers.Leads == nil || c.Peers.Leads())
}

// leading wraps a task that one controller does for the whole site.
func (c *Control) leading(task func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if !c.leads() {
			return nil
		}
		return task(ctx)
	}
}

// alone reports whether nobody else serves the site, whoever did before.
func (c *Control) alone() bool { return c.Peers.Under == nil }

// others reports whether something is the concern of another controller, who is there to see to it.
func (c *Control) others(controller string) bool {
	return !c.alone() && controller != c.Controller && !c.away(controller)
}

func (c *Control) away(controller string) bool {
	return controller != c.Controller && c.Peers.Away != nil && c.Peers.Away(controller)
}

// moves reports whether a runner is ours to move. Before it is placed it is anybody's.
func (c *Control) moves(r firerunner.Runner) bool {
	return c.alone() || r.Controller == c.Controller || r.State < firerunner.Placed && !c.StandsIn
}

// advanceStep is the step of whoever moves the runner.
func (c *Control) advanceStep(r firerunner.Runner) firerunner.Step {
	s := firerunner.Step{Kind: firerunner.StepAdvance, RunnerID: r.ID, Controller: r.Controller}
	if c.moves(r) {
		s.Controller = c.Controller
	}
	return s
}

// asks reports whether it is ours to ask a host for a sign of life: our own machine, or, for the whole site, every host that
// is reached over a network.
func (c *Control) asks(h firerunner.Host) bool {
	return h.Driver == c.Driver.Name() && c.serves(h.Name) && (c.LocalHost != "" || c.leads())
}

// remote reports whether the hosts of a driver are reached over a network, by any controller that has that driver. Others
// are a controller's own machine.
func (c *Control) remote(h firerunner.Host) bool {
	return c.prober != nil && c.LocalHost == "" && h.Driver == c.Driver.Name()
}

// elsewhere reports whether a host is the machine of another controller: in no configuration but that one's, and not to be
// drained or forgotten while it is away.
func (c *Control) elsewhere(h firerunner.Host) bool {
	return !c.alone() && !c.remote(h) && h.Controller != "" && h.Controller != c.Controller
}

// carrier is who moves a runner that is placed on a host.
func (c *Control) carrier(h firerunner.Host) string {
	if c.remote(h) {
		return c.Controller
	}
	return h.Controller
}

// within returns the hosts on which this controller may place: those of a network only if it is configured to reach them.
func (c *Control) within(hosts []firerunner.Host) []firerunner.Host {
	c.fleet.mu.Lock()
	configured := c.fleet.configured
	c.fleet.mu.Unlock()
	if configured == nil {
		return hosts
	}
	usable := make([]firerunner.Host, 0, len(hosts))
	for _, h := range hosts {
		if !c.remote(h) || configured[h.Name] {
			usable = append(usable, h)
		}
	}
	return usable
}

// noticeAway writes down which controllers' own machines take no work because nobody acts for them, takes that back of
// those that are there after all - one that stood still, or was only slow to come, goes on without another start - and ends
// runners that nobody can move any more.
func (c *Control) noticeAway(ctx context.Context) error {
	if c.Peers.Away == nil {
		return nil
	}
	rows, err := c.Store.Hosts(ctx)
	if err != nil {
		return fmt.Errorf("reading the hosts: %w", err)
	}
	for _, h := range rows {
		if c.noticed(h) == h.Trouble {
			continue
		}
		name := h.Name
		err := c.update(ctx, func(ch *change) error {
			rows, err := ch.Hosts(ctx)
			if err != nil {
				return err
			}
			for _, h := range rows {
				now := c.noticed(h)
				if h.Name != name || now == h.Trouble {
					continue
				}
				message := "takes no new work: " + now
				if now == "" {
					message = fmt.Sprintf("takes work again: its controller %q is back", h.Controller)
				}
				h.Trouble = now
				return c.saveHost(ctx, ch, h, message)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return c.forsakeAway(ctx)
}

// noticed is the trouble of a host after a look at whether its controller is there. Other troubles are not ours to end.
func (c *Control) noticed(h firerunner.Host) string {
	ours := fmt.Sprintf("its controller %q is away", h.Controller)
	switch {
	case c.remote(h):
	case h.Trouble == "" && c.away(h.Controller):
		return ours
	case h.Trouble == ours && !c.away(h.Controller):
		return ""
	}
	return h.Trouble
}

// forsakeAway gives up runners on the machine of a controller that is away. Its shims go on without it, so nothing there is
// ended on suspicion: each deadline passes first, as for any runner (see expire); and only when the microVM has ended by
// itself for certain, at its own deadline, is the record closed, and what it held in GitLab removed.
func (c *Control) forsakeAway(ctx context.Context) error {
	live, err := c.Store.Runners(ctx, firerunner.RunnerQuery{Live: true})
	if err != nil {
		return fmt.Errorf("reading live runners: %w", err)
	}
	var errs []error
	for _, r := range live {
		if r.State < firerunner.Placed || r.Desired == firerunner.Wanted || !c.away(r.Controller) || c.Now().Before(c.outlived(r)) {
			continue
		}
		errs = append(errs, c.forsakeOne(ctx, r))
	}
	return errors.Join(errs...)
}

// outlived is when the microVM of a runner has ended by its own deadline for certain. That was set when it was made: before
// the runner came into its state, or while it was in creating. How long the runner had waited in the queue does not count.
func (c *Control) outlived(r firerunner.Runner) time.Time {
	deadlines := c.set().Deadlines
	made := r.MovedAt
	if r.State <= firerunner.Creating {
		made = made.Add(deadlines.Creating)
	}
	return made.Add(deadlines.Life() + c.stoppingLimit())
}

func (c *Control) forsakeOne(ctx context.Context, r firerunner.Runner) error {
	callCtx, cancel := context.WithTimeout(ctx, c.CallTimeout)
	defer cancel()
	if err := c.deleteOrphans(callCtx, r); err != nil {
		return err
	}
	return c.update(ctx, func(ch *change) error {
		r, err := ch.Runner(ctx, r.ID)
		if err != nil || r.State == firerunner.Gone || r.Desired == firerunner.Wanted {
			return err
		}
		if r.State < firerunner.Stopping {
			if err := c.move(ctx, ch, &r, firerunner.Stopping, firerunner.OwnerOf(r.State), r.Message); err != nil {
				return err
			}
		}
		return c.goneIn(ctx, ch, r.ID, fmt.Sprintf("its controller %q has been away for longer than the microVM could live", r.Controller))
	})
}

// expires reports whether the deadline of a runner is ours to enforce: our own, and those of controllers for whose machine
// nobody can act.
func (c *Control) expires(r firerunner.Runner) bool {
	return c.moves(r) || c.leads() && c.away(r.Controller)
}

// begin is when we began to ask hosts: what they left unanswered before does not count, nor what another controller heard
// of them while it led.
func (f *fleet) begin(leads bool, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if leads && !f.leads {
		f.began, f.unanswered, f.accepting = now, nil, nil
	}
	f.leads = leads
}
