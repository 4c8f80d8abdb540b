package control

import (
	"context"

	"github.com/firerunner/firerunner"
)

// Tests drive the periodic tasks themselves, so that nothing waits for a tick.

// StartStill is Start without the loops.
func (c *Control) StartStill(ctx context.Context) error {
	ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	c.follow.start(ctx, c.watch)
	return c.adopt(ctx)
}

// Sweep is one sweep.
func (c *Control) Sweep(ctx context.Context) error { return c.sweep(ctx) }

// Expire is one look for overdue runners.
func (c *Control) Expire(ctx context.Context) error { return c.expire(ctx) }

// ExpireInTime is one round of the task that looks for overdue runners.
func (c *Control) ExpireInTime(ctx context.Context) error { return c.expireInTime(ctx) }

// Reap is one search for what nobody owns.
func (c *Control) Reap(ctx context.Context) error { return c.reap(ctx) }

// LookAtWebhooks is one look at the webhooks of active projects.
func (c *Control) LookAtWebhooks(ctx context.Context) error { return c.lookAtWebhooks(ctx) }

// Probe is one round of asking hosts for a sign of life.
func (c *Control) Probe(ctx context.Context) error { return c.probeHosts(ctx) }

// Notice is one look for what others changed in the hosts.
func (c *Control) Notice(ctx context.Context) error { return c.noticeHosts(ctx) }

// Adopt is what Start does with what an earlier process left, without listening to guests.
func (c *Control) Adopt(ctx context.Context) error { return c.adopt(ctx) }

// Apply is what is done with one report of a guest.
func (c *Control) Apply(ctx context.Context, id string, rep firerunner.GuestReport) error {
	return c.apply(ctx, id, rep)
}

// Lost is what is done where a driver does not know a microVM any more.
func (c *Control) Lost(ctx context.Context, id string) error { return c.lost(ctx, id) }

// NewIDAt is newID.
var NewIDAt = newID

// NoticeAway is one look for controllers that are away.
func (c *Control) NoticeAway(ctx context.Context) error { return c.noticeAway(ctx) }
