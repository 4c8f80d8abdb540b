package control

import (
	"context"
	"fmt"
	"time"

	"github.com/firerunner/firerunner"
)

// tryFailed counts the end of a runner that failed before a job started, if it says something about its image on its host,
// and gives the pair up when that was once too often: one event, which names both, the last failure and the remedy.
func (c *Control) tryFailed(ctx context.Context, ch *change, r firerunner.Runner, message string) error {
	if !blames(r.Outcome, r.Reason) || r.Host == "" {
		return nil
	}
	p := trialPair{c.imageOf(r), r.Host}
	before, placedAt := c.trials.get(p, r.ID)
	next, news := before.after(placedAt, c.Now(), r.Image, c.Config)
	hint := c.trials.gone(r.ID)
	ch.afterwards = append(ch.afterwards, func() { c.trials.set(p, next) })
	if !news || !next.given || before.given {
		return nil
	}
	if hint == "" {
		hint = fmt.Sprintf(`"firerunner image verify %s" boots the image once; if it boots on other hosts, look at this one: "firerunner doctor"`, p.image)
	}
	return ch.event(ctx, firerunner.Event{
		At: c.Now(), Kind: firerunner.EventImage, RunnerID: r.ID, ProjectID: r.Demand.ProjectID, Actor: "control", Reason: r.Reason,
		Message: fmt.Sprintf("image %s on host %s is given up for %s: it failed %d times in a row, at last so: %s (%s). A new image, or \"firerunner hosts drain\" and \"accept\", ends that early",
			p.image, p.host, c.GiveUpFor, next.failures, brief(fmt.Errorf("%s", message)), hint),
	})
}

// tryWorked ends the trial of a pair: a job was taken.
func (c *Control) tryWorked(ctx context.Context, ch *change, r firerunner.Runner) error {
	p := trialPair{c.imageOf(r), r.Host}
	before, _ := c.trials.get(p, r.ID)
	if before.failures == 0 {
		return nil
	}
	ch.afterwards = append(ch.afterwards, func() {
		c.trials.forget(func(q trialPair, _ trial) bool { return q == p })
	})
	if before.given {
		message := fmt.Sprintf("image %s on host %s works again", p.image, p.host)
		err := ch.event(ctx, firerunner.Event{At: c.Now(), Kind: firerunner.EventImage, RunnerID: r.ID, ProjectID: r.Demand.ProjectID, Actor: "control", Message: message})
		if err != nil {
			return err
		}
	}
	return ch.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepPlace}) // those that waited for it
}

// suspects returns how long to wait before another runner is queued whose image has failed on every host, and how many may
// be then: one, so that those that cannot be placed do not fill the queue.
func (c *Control) suspects(ctx context.Context, rd firerunner.Reader, image string, missing int) (wait time.Duration, most int, err error) {
	hosts, err := rd.Hosts(ctx)
	if err != nil {
		return 0, 0, err
	}
	until, failed := c.trials.everywhere(c.Now(), image, hosts)
	if !failed {
		return 0, missing, nil
	}
	if wait := until.Sub(c.Now()); wait > 0 {
		return wait, 0, nil
	}
	live, err := rd.Runners(ctx, firerunner.RunnerQuery{Live: true, States: []firerunner.State{
		firerunner.Queued, firerunner.Placed, firerunner.Creating, firerunner.Booting, firerunner.Ready,
	}})
	if err != nil {
		return 0, 0, err
	}
	for _, r := range live {
		if r.Desired == firerunner.Wanted && c.imageOf(r) == image {
			return firstPause, 0, nil // it shows whether the image comes up
		}
	}
	return 0, min(missing, 1), nil
}

// recall makes the trials again from the rows: what failed lately, and not since a job was taken.
func (c *Control) recall(ctx context.Context) error {
	recent, err := c.Store.Runners(ctx, firerunner.RunnerQuery{Since: c.Now().Add(-trialMemory), Limit: 1000})
	if err != nil {
		return fmt.Errorf("reading which images failed lately: %w", err)
	}
	for i := range recent { // the oldest first
		r := recent[len(recent)-1-i]
		p := trialPair{c.imageOf(r), r.Host}
		switch {
		case r.Host == "":
		case r.JobID != 0:
			c.trials.forget(func(q trialPair, _ trial) bool { return q == p })
		case blames(r.Outcome, r.Reason):
			before, _ := c.trials.get(p, r.ID)
			next, _ := before.after(r.CreatedAt, r.MovedAt, r.Image, c.Config)
			c.trials.set(p, next)
		}
	}
	return nil
}

// renewTrials gives an image that was given up another chance once it is another image.
func (c *Control) renewTrials(ctx context.Context) {
	for p, is := range c.trials.given() {
		image, err := c.Image(ctx, p.image)
		if err != nil || image.Digest == is.digest || is.digest == "" {
			continue
		}
		c.trials.forget(func(q trialPair, was trial) bool { return q == p && was.failures == is.failures })
	}
}
