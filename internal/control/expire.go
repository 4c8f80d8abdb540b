package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/firerunner/firerunner"
)

// expire ends what stayed too long in a state, unless it has come further than its row says: we may have been dead, or without
// an answer, while it did. It only sets desired; the owner of the state does the rest, and a runner that cannot be removed is
// said to be overdue once more each time that its deadline passes.
func (c *Control) expire(ctx context.Context) error {
	overdue, err := c.Store.Runners(ctx, firerunner.RunnerQuery{Live: true, Overdue: c.Now()})
	if err != nil {
		return fmt.Errorf("looking for overdue runners: %w", err)
	}
	var errs []error
	away, blind := false, false // GitLab, or the driver, did not answer: the others are not held up by the same question
	for _, r := range overdue {
		if !c.expires(r) {
			continue
		}
		message := fmt.Sprintf("%s for longer than %s", r.State, r.Deadline.Sub(r.MovedAt).Round(time.Second))
		if r.Host != "" {
			message += " on host " + r.Host
		}
		if name := c.imageOf(r); name != "" {
			message += ", image " + name
			if r.Image != "" { // what was resolved of it
				message += fmt.Sprintf(" (%.19s)", r.Image) // sha256: and 12 digits
			}
		}
		if why := c.holdups.get(r.ID); why != "" && r.State == firerunner.Stopping {
			message += ": " + why
		}
		if c.mayBeMade(r) {
			if !blind {
				made, err := c.found(ctx, r)
				errs = append(errs, err)
				if made {
					continue
				}
				blind = err != nil
			}
			if blind && c.Now().Before(r.Deadline.Add(c.CallTimeout)) {
				continue // the driver may answer in the next round
			}
		}
		if mayHaveJob(r) && r.Desired == firerunner.Wanted { // we may have been dead while it went on
			if away {
				errs = append(errs, c.postpone(ctx, r.ID))
				continue
			}
			if has, err := c.hasJob(ctx, r); err != nil || has {
				if err != nil {
					away = firerunner.CodeOf(err) == firerunner.Unavailable
					err = errors.Join(err, c.postpone(ctx, r.ID))
				}
				errs = append(errs, err)
				continue
			}
		}
		errs = append(errs, c.update(ctx, func(ch *change) error { return c.expireOne(ctx, ch, r.ID, message) }))
	}
	return errors.Join(errs...)
}

// mayBeMade reports whether a runner that is being made may have its microVM without our knowing: its driver has not said
// so, or we could not write it down.
func (c *Control) mayBeMade(r firerunner.Runner) bool {
	return r.State == firerunner.Creating && r.GitLabID != 0 && r.JobID == 0 && r.Desired == firerunner.Wanted && c.moves(r)
}

// found looks for such a microVM and accepts it where it is there. Its guest may have done its job by now, and is heard; or
// it is about to ask for one, so this comes before GitLab is told to give it none. Whoever provisions it may still wait for
// the driver's answer, and finds it accepted.
func (c *Control) found(ctx context.Context, r firerunner.Runner) (bool, error) {
	callCtx, cancel := context.WithTimeout(ctx, c.CallTimeout)
	defer cancel()
	made, err := c.exists(callCtx, r)
	if err != nil {
		return false, fmt.Errorf("looking for microVM %s before it is given up: %w", r.ID, err)
	}
	if !made {
		return false, nil
	}
	return true, c.accepted(ctx, r.ID, "its time was over, and the microVM is there")
}

// postpone gives a runner a little longer where GitLab cannot say whether it has a job: a job is not killed on a guess.
// The microVM's own deadline is the last.
func (c *Control) postpone(ctx context.Context, id string) error {
	return c.update(ctx, func(ch *change) error {
		r, err := ch.Runner(ctx, id)
		if err != nil || !r.Overdue(c.Now()) || !mayHaveJob(r) {
			return err
		}
		r.Deadline = c.Now().Add(c.CallTimeout)
		return ch.SaveRunner(ctx, &r)
	})
}

func (c *Control) expireOne(ctx context.Context, ch *change, id, message string) error {
	r, err := ch.Runner(ctx, id)
	if err != nil || !r.Overdue(c.Now()) {
		return err
	}
	r.Deadline = c.Now().Add(max(c.set().Deadlines.Stopping, time.Second)) // for whoever must act now
	if err := ch.SaveRunner(ctx, &r); err != nil {
		return err
	}
	if err := c.note(ctx, ch, r, firerunner.EventOverdue, "expire", message); err != nil {
		return err
	}
	if r.Desired == firerunner.Unwanted {
		return ch.Enqueue(ctx, c.advanceStep(r))
	}
	if r.State == firerunner.Ready && r.JobID == 0 {
		return c.end(ctx, ch, &r, firerunner.Cancelled, firerunner.ReasonNoJob, "expire", "GitLab gave it no job in time")
	}
	outcome := firerunner.Rejected
	if r.JobID != 0 {
		outcome = firerunner.Failed
	}
	return c.end(ctx, ch, &r, outcome, firerunner.ReasonDeadline, "expire", message)
}
