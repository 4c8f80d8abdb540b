package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

// adopt takes up what an earlier process left: it listens again to the guests of rows that have one, and lets the
// owners of all other live rows go on.
func (c *Control) adopt(ctx context.Context) error {
	live, err := c.Store.Runners(ctx, firerunner.RunnerQuery{Live: true})
	if err != nil {
		return fmt.Errorf("reading live runners: %w", err)
	}
	live = slices.DeleteFunc(live, func(r firerunner.Runner) bool { return !c.moves(r) })
	err = c.update(ctx, func(ch *change) error {
		for _, r := range live {
			if err := ch.Enqueue(ctx, c.advanceStep(r)); err != nil {
				return err
			}
			if err := c.catchUp(ctx, ch, r.ID); err != nil {
				return err
			}
		}
		if len(live) > 0 {
			message := fmt.Sprintf("took up %d live runners", len(live))
			if err := ch.event(ctx, firerunner.Event{At: c.Now(), Kind: firerunner.EventDaemon, Actor: "daemon", Message: message}); err != nil {
				return err
			}
		}
		return ch.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepPlace})
	})
	if err != nil {
		return err
	}
	for _, r := range live {
		if r.State >= firerunner.Booting && r.State < firerunner.Stopping {
			c.follow.ensure(r.ID)
		}
	}
	return nil
}

// catchUpTime is what a daemon that starts has for hearing what guests said while nobody listened, before deadlines that
// passed meanwhile count.
const catchUpTime = 10 * time.Second

// catchUp gives a runner whose guest is listened to that time: its hello, or the end of its job, may wait to be read.
func (c *Control) catchUp(ctx context.Context, ch *change, id string) error {
	r, err := ch.Runner(ctx, id)
	if err != nil || r.State < firerunner.Booting || r.State >= firerunner.Stopping || r.Desired != firerunner.Wanted {
		return err
	}
	least := c.Now().Add(catchUpTime)
	if r.Deadline.IsZero() || !r.Deadline.Before(least) {
		return nil
	}
	r.Deadline = least
	return ch.SaveRunner(ctx, &r)
}

// reap removes what nobody owns: microVMs without a live row, and runners in GitLab that carry our marker but belong to
// no live row. It never touches what is not marked as ours.
func (c *Control) reap(ctx context.Context) error {
	return errors.Join(c.reapVMs(ctx), c.leading(c.reapCredentials)(ctx))
}

func (c *Control) reapVMs(ctx context.Context) error {
	silent, err := c.lostHosts(ctx)
	if err != nil {
		return err
	}
	return c.reapWhere(ctx, func(vm firerunner.MicroVM) bool { return !silent[vm.Host] })
}

// reapWhere removes microVMs without a live row. A driver of many hosts lists those that answer beside its error.
func (c *Control) reapWhere(ctx context.Context, which func(firerunner.MicroVM) bool) error {
	vms, err := c.Driver.List(ctx) // before the rows: a microVM that is made meanwhile has its row already
	errs := []error{wrap(err, "listing microVMs")}
	owned, err := c.owned(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, vm := range vms {
		if owned[vm.ID] || !which(vm) {
			continue
		}
		if err := c.Driver.Destroy(ctx, vm.ID); err != nil {
			errs = append(errs, fmt.Errorf("reaping microVM %s: %w", vm.ID, err))
			continue
		}
		errs = append(errs, c.reaped(ctx, vm.ID, "a microVM without a live runner"))
	}
	return errors.Join(errs...)
}

func (c *Control) reapCredentials(ctx context.Context) error {
	projects, err := c.Store.Projects(ctx, c.Now().Add(-c.SweepWindow))
	if err != nil {
		return fmt.Errorf("listing projects: %w", err)
	}
	var errs []error
	for _, p := range projects {
		callCtx, cancel := context.WithTimeout(ctx, c.CallTimeout)
		found, err := c.GitLab.FindRunners(callCtx, p.ID, c.marker())
		cancel()
		if err != nil {
			errs = append(errs, fmt.Errorf("listing our runners of project %d in GitLab: %w", p.ID, err))
			continue
		}
		owned, err := c.owned(ctx) // after the list: one that was made meanwhile is not in it
		if err != nil {
			return err
		}
		for _, g := range found {
			id := strings.TrimPrefix(g.Description, c.marker())
			if owned[id] {
				continue
			}
			callCtx, cancel := context.WithTimeout(ctx, c.CallTimeout)
			err := c.GitLab.DeleteRunner(callCtx, g.ID)
			cancel()
			if err != nil {
				errs = append(errs, fmt.Errorf("reaping GitLab runner %d: %w", g.ID, err))
				continue
			}
			errs = append(errs, c.reaped(ctx, id, fmt.Sprintf("runner %d in GitLab without a live runner here", g.ID)))
		}
	}
	return errors.Join(errs...)
}

// owned returns the IDs of live runners.
func (c *Control) owned(ctx context.Context) (map[string]bool, error) {
	live, err := c.Store.Runners(ctx, firerunner.RunnerQuery{Live: true})
	if err != nil {
		return nil, fmt.Errorf("reading live runners: %w", err)
	}
	owned := map[string]bool{}
	for _, r := range live {
		owned[r.ID] = true
	}
	return owned, nil
}

func (c *Control) reaped(ctx context.Context, id, message string) error {
	return c.update(ctx, func(ch *change) error {
		return ch.event(ctx, firerunner.Event{At: c.Now(), Kind: firerunner.EventReaped, RunnerID: id, Actor: "reap", Message: message})
	})
}
