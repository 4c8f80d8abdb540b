package control

import (
	"context"
	"time"

	"github.com/firerunner/firerunner"
)

// advance is StepAdvance: it does what the owner of a runner's state has to do now, and moves the runner at most one
// stage on. Nothing to do is not an error: evidence may be what the runner waits for.
func (c *Control) advance(ctx context.Context, s firerunner.Step) error {
	release, ok := c.locks.try(s.RunnerID)
	if !ok {
		return firerunner.Later(time.Second, "another step works on this runner")
	}
	defer release()
	r, err := c.Store.Runner(ctx, s.RunnerID)
	if firerunner.CodeOf(err) == firerunner.NotFound {
		return nil
	}
	if err != nil {
		return err
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
		return c.move(ctx, ch, &r, firerunner.Stopping, owner, r.Message)
	})
}
