package control

import (
	"context"
	"slices"
	"time"

	"github.com/firerunner/firerunner"
)

// Shutdown ends the work: no new runner, an end for those without a job, and for those with one the time until grace
// has passed; then their jobs are stopped and say so to GitLab. The end of hurry cuts the grace short. It returns
// the number of runners that are still live when patience is over; the next Start takes them up.
func (c *Control) Shutdown(ctx, hurry context.Context, grace, patience time.Duration) (left int) {
	c.stopTaking()
	const actor = "daemon"
	c.endAll(ctx, func(r firerunner.Runner) bool { return r.State < firerunner.Ready && r.GitLabID <= 0 }, actor)
	for _, r := range c.live(ctx) {
		if mayHaveJob(r) {
			if err := c.retire(ctx, r.ID, firerunner.Cancelled, firerunner.ReasonShutdown, actor, "the daemon is ending"); err != nil {
				c.Logger.Warn("could not retire a runner; it is ended later", "runner", r.ID, "error", err)
			}
		}
	}
	calm, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(hurry, cancel)()
	if c.await(calm, grace, func() bool { return len(c.live(ctx)) == 0 }) {
		return 0
	}
	c.endAll(ctx, func(firerunner.Runner) bool { return true }, actor)
	c.await(ctx, patience, func() bool { return len(c.live(ctx)) == 0 })
	return len(c.live(ctx))
}

func (c *Control) live(ctx context.Context) []firerunner.Runner {
	rs, err := c.Store.Runners(ctx, firerunner.RunnerQuery{Live: true})
	if err != nil {
		c.Logger.Warn("could not read live runners", "error", err)
	}
	return slices.DeleteFunc(rs, func(r firerunner.Runner) bool {
		return !c.moves(r) || r.State < firerunner.Placed && !c.alone()
	})
}

func (c *Control) endAll(ctx context.Context, which func(firerunner.Runner) bool, actor string) {
	for _, r := range c.live(ctx) {
		if !which(r) {
			continue
		}
		err := c.update(ctx, func(ch *change) error {
			r, err := ch.Runner(ctx, r.ID)
			if err != nil || !which(r) {
				return err
			}
			return c.end(ctx, ch, &r, firerunner.Cancelled, firerunner.ReasonShutdown, actor, "the daemon is ending")
		})
		if err != nil {
			c.Logger.Warn("could not end a runner", "runner", r.ID, "error", err)
		}
	}
}
