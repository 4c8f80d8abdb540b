package control

import (
	"context"
	"time"

	"github.com/firerunner/firerunner"
)

// advance is StepAdvance: it does what the owner of a runner's state has to do now. Where another step works on the
// runner already, that one looks once more when it is done: nothing waits, and nothing is lost, because a step that fails
// is done again and a daemon that starts enqueues one for each live runner.
func (c *Control) advance(ctx context.Context, s firerunner.Step) error {
	if !c.locks.take(s.RunnerID) {
		return nil
	}
	taken := true
	defer func() {
		if taken {
			c.locks.drop(s.RunnerID)
		}
	}()
	for taken {
		if err := c.advanceOnce(ctx, s); err != nil {
			return err
		}
		taken = !c.locks.leave(s.RunnerID)
	}
	return nil
}

// advanceOnce moves the runner at most one stage on. Nothing to do is not an error: evidence may be what it waits for.
func (c *Control) advanceOnce(ctx context.Context, s firerunner.Step) error {
	r, err := c.Store.Runner(ctx, s.RunnerID)
	if firerunner.CodeOf(err) == firerunner.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if !c.moves(r) { // it was placed on another's machine, or another stands in for us
		return c.update(ctx, func(ch *change) error { return ch.Enqueue(ctx, c.advanceStep(r)) })
	}
	if c.Peers.Holds != nil && !c.Peers.Holds() { // another may act for us: two would call its driver
		return firerunner.Later(time.Second, "the lease of this controller is not surely ours")
	}
	switch r.State {
	case firerunner.Queued:
		return c.abandon(ctx, r.ID, firerunner.OwnerPlacement)
	case firerunner.Placed, firerunner.Creating:
		return c.provision(ctx, r)
	case firerunner.Booting, firerunner.Ready, firerunner.Running:
		c.follow.ensure(r.ID)
		return c.endWatched(ctx, r)
	case firerunner.Stopping:
		return c.stop(ctx, r)
	}
	return nil
}

// abandon moves an unwanted runner to Stopping on behalf of the owner of its state; a wanted one stays.
func (c *Control) abandon(ctx context.Context, id string, owner firerunner.Owner) error {
	return c.update(ctx, func(ch *change) error {
		r, err := ch.Runner(ctx, id)
		if err != nil || r.Desired == firerunner.Wanted || firerunner.OwnerOf(r.State) != owner || r.State == firerunner.Stopping {
			return err
		}
		if r.State < firerunner.Placed { // it was anybody's, and becomes ours to remove: a runner of nobody is moved by nobody
			r.Controller = c.Controller
		}
		return c.move(ctx, ch, &r, firerunner.Stopping, owner, r.Message)
	})
}
