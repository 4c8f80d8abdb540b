package control

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/firerunner/firerunner"
)

const (
	// leastJump is how far the clock has to be off from the time that really passed to have jumped: slewing and a busy
	// machine are no jumps.
	leastJump = 5 * time.Second
	// longestPauseOfRounds is after how long without a round what guests said meanwhile is heard before deadlines count.
	longestPauseOfRounds = 15 * time.Second
)

// timekeeper knows when the last round was, by the clock that rows are written with and by one that never jumps. It is the
// expire task's own.
type timekeeper struct {
	wall    time.Time
	elapsed time.Duration
	began   bool
}

// expireInTime is expire for a clock that may jump (NTP sets it, a machine is suspended) and for a process that could not look
// for a while (the store was away, it was stopped). Deadlines are times of the clock, because they outlive the process; what
// they mean is how long something may last. So they go along with a jump, and nothing that runs ends because of one.
func (c *Control) expireInTime(ctx context.Context) error {
	now, elapsed, last := c.Now().Round(0), c.Elapsed(), c.time // without its reading of the clock that never jumps
	passed := elapsed - last.elapsed
	jump := now.Sub(last.wall) - passed
	if last.began {
		var err error
		switch {
		case jump.Abs() >= leastJump:
			err = c.jumped(ctx, jump, now)
		case passed >= longestPauseOfRounds:
			err = c.catchUpAll(ctx)
		}
		if err != nil {
			return fmt.Errorf("moving deadlines along with the clock: %w", err) // nothing expires before that is done
		}
	}
	err := c.expire(ctx)
	if err == nil || c.Store.Ping(ctx) == nil { // else this was no round: nobody could write
		c.time = timekeeper{now, elapsed, true}
	}
	return err
}

// jumped moves deadlines along. Forward, they become later by as much. Backward, what is ahead of the clock now begins now,
// which may give a runner its time once more and never takes any away: should either be done twice, it harms nobody.
func (c *Control) jumped(ctx context.Context, jump time.Duration, now time.Time) error {
	return c.update(ctx, func(ch *change) error {
		live, err := ch.Runners(ctx, firerunner.RunnerQuery{Live: true})
		if err != nil {
			return err
		}
		live = slices.DeleteFunc(live, func(r firerunner.Runner) bool { return !c.moves(r) }) // others' clocks are their own
		for _, r := range live {
			if jump > 0 {
				r.MovedAt = r.MovedAt.Add(jump)
				if !r.Deadline.IsZero() {
					r.Deadline = r.Deadline.Add(jump)
				}
			} else {
				beginNow(&r, now)
			}
			if err := ch.SaveRunner(ctx, &r); err != nil {
				return err
			}
			if err := c.catchUp(ctx, ch, r.ID); err != nil {
				return err
			}
		}
		way := "forward"
		if jump < 0 {
			way = "back"
		}
		return ch.event(ctx, firerunner.Event{At: now, Kind: firerunner.EventDaemon, Actor: "expire", Message: fmt.Sprintf(
			"the clock jumped %s by %s: the deadlines of %d runners go along", way, jump.Abs().Round(time.Second), len(live))})
	})
}

// beginNow has a runner whose state began ahead of the clock begin it now, and its deadline with it.
func beginNow(r *firerunner.Runner, now time.Time) {
	ahead := r.MovedAt.Sub(now)
	if ahead <= 0 {
		return
	}
	r.MovedAt = now
	if !r.Deadline.IsZero() {
		r.Deadline = r.Deadline.Add(-ahead)
	}
}

// wentBack is for a process that starts: the clock may have been set back while none was there to see it. It would leave a
// runner in its state for as much longer.
func (c *Control) wentBack(ctx context.Context, ch *change, id string) error {
	r, err := ch.Runner(ctx, id)
	now := c.Now().Round(0)
	ahead := r.MovedAt.Sub(now)
	if err != nil || ahead < leastJump {
		return err
	}
	beginNow(&r, now)
	if err := ch.SaveRunner(ctx, &r); err != nil {
		return err
	}
	return c.note(ctx, ch, r, firerunner.EventNotice, "daemon", fmt.Sprintf(
		"the clock had gone back by at least %s while nobody looked: the deadline goes along", ahead.Round(time.Second)))
}

func (c *Control) catchUpAll(ctx context.Context) error {
	return c.update(ctx, func(ch *change) error {
		live, err := ch.Runners(ctx, firerunner.RunnerQuery{Live: true})
		if err != nil {
			return err
		}
		for _, r := range live {
			if !c.moves(r) {
				continue
			}
			if err := c.catchUp(ctx, ch, r.ID); err != nil {
				return err
			}
		}
		return nil
	})
}
