package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/firerunner/firerunner"
)

// stop removes everything that a runner had: microVM with disk and network, and its runner in GitLab. Stopping → Gone
// only once both are absent; until then the queue tries again. Before that, GitLab is told of a job that nobody else speaks
// for any more: see failJob. Each removal may be done twice. The microVM of a host that
// is lost may stay behind: see forsake.
func (c *Control) stop(ctx context.Context, r firerunner.Runner) error {
	err := c.remove(ctx, r)
	if ctx.Err() == nil {
		c.holdups.set(r.ID, err)
	}
	return err
}

// removeLeast is the least time that a driver has to remove a microVM, however short Stopping's deadline.
const removeLeast = 500 * time.Millisecond

func (c *Control) remove(ctx context.Context, r firerunner.Runner) error {
	callCtx, cancel := context.WithTimeout(ctx, c.CallTimeout)
	defer cancel()
	told := c.failJob(ctx, r) // before anything slow
	lost, err := c.hostLost(ctx, r.Host)
	if err != nil {
		return err
	}
	if told != nil { // GitLab is away; the microVM need not wait for it
		within := max(c.stoppingLimit()/2, removeLeast)
		if lost {
			within = c.HostProbeTimeout
		}
		return errors.Join(told, c.destroy(ctx, r.ID, within))
	}
	if lost { // the one removal that is possible first
		if err := c.deleteOrphans(callCtx, r); err != nil {
			return err
		}
		if err := c.destroy(ctx, r.ID, c.HostProbeTimeout); err != nil {
			return c.forsake(ctx, r, err)
		}
	} else if err := errors.Join(c.destroy(ctx, r.ID, max(c.stoppingLimit()/2, removeLeast)), c.deleteOrphans(callCtx, r)); err != nil {
		return err
	}
	message := "microVM, disk and network are gone"
	if r.GitLabID > 0 {
		message += fmt.Sprintf("; runner %d deleted in GitLab", r.GitLabID)
	}
	return c.gone(ctx, r.ID, message)
}

// forsake leaves the microVM of a lost host behind, once Stopping has lasted as long as it may: its record and what it
// held in GitLab are gone, and the reaper removes it when the host answers again, before the host takes new work.
func (c *Control) forsake(ctx context.Context, r firerunner.Runner, cause error) error {
	if c.Now().Sub(r.MovedAt) < c.stoppingLimit() {
		return cause
	}
	c.follow.drop(r.ID)
	return c.update(ctx, func(ch *change) error {
		if lost, err := lostIn(ctx, ch, r.Host); err != nil || !lost { // it is back: then the removal is possible
			return errors.Join(cause, err)
		}
		return c.goneIn(ctx, ch, r.ID, fmt.Sprintf("host %s is lost: what it may still have of the microVM is removed when it answers again", r.Host))
	})
}

// stoppingLimit is how long Stopping may last.
func (c *Control) stoppingLimit() time.Duration {
	if limit := c.set().Deadlines.Of(firerunner.Stopping); limit > 0 {
		return limit
	}
	return time.Minute
}

// destroy ends the microVM, within a time: a driver that hangs says why before the deadline passes, and is asked again.
func (c *Control) destroy(ctx context.Context, id string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return wrap(c.Driver.Destroy(ctx, id), "destroying microVM %s", id)
}

func (c *Control) gone(ctx context.Context, id, message string) error {
	return c.update(ctx, func(ch *change) error { return c.goneIn(ctx, ch, id, message) })
}

func (c *Control) goneIn(ctx context.Context, ch *change, id, message string) error {
	r, err := ch.Runner(ctx, id)
	if err != nil || r.State != firerunner.Stopping {
		return err
	}
	r.JobKey = ""
	return c.move(ctx, ch, &r, firerunner.Gone, firerunner.OwnerStop, message)
}

func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
