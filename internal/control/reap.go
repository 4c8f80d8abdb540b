package control

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/firerunner/firerunner"
)

// adopt takes up what an earlier process left: it listens again to the guests of rows that have one, and lets the
// owners of all other live rows go on.
func (c *Control) adopt(ctx context.Context) error {
	if err := c.recall(ctx); err != nil {
		return err
	}
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
			if err := c.wentBack(ctx, ch, r.ID); err != nil {
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

// reap puts together again what belongs together, both ways: see ReapOnce. It never touches what is not marked as ours.
func (c *Control) reap(ctx context.Context) error {
	_, err := c.ReapOnce(ctx, ReapOptions{HostsOnly: !c.leads()})
	return err
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
