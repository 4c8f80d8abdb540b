package control

import (
	"context"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/placement"
)

// place is StepPlace: every queued runner is given a host or a reason. The reservation is written with the decision,
// in one transaction, so that capacity is never given away twice.
func (c *Control) place(ctx context.Context, _ firerunner.Step) error {
	if !c.takesWork() {
		return firerunner.Later(time.Second, "the daemon is ending")
	}
	return c.update(ctx, func(ch *change) error {
		queued, err := ch.Runners(ctx, firerunner.RunnerQuery{States: []firerunner.State{firerunner.Queued}})
		if err != nil {
			return err
		}
		byID := map[string]firerunner.Runner{}
		var waiting []firerunner.Runner
		for _, r := range queued {
			if r.Desired == firerunner.Wanted {
				waiting = append(waiting, r) // ordered by ID, so by age
				byID[r.ID] = r
			}
		}
		if len(waiting) == 0 { // mostly: what ended has made room that nobody wants
			return nil
		}
		live, err := ch.Runners(ctx, firerunner.RunnerQuery{Live: true})
		if err != nil {
			return err
		}
		hosts, err := ch.Hosts(ctx)
		if err != nil {
			return err
		}
		hosts = c.within(hosts)
		carriers := map[string]string{}
		for _, h := range hosts {
			carriers[h.Name] = c.carrier(h)
		}
		failing := c.trials.failing(c.Now(), live, c.imageOf)
		round := placement.Round{
			Loads: placement.NewLoads(hosts, live), Labels: c.hostLabels, Rejected: c.rejections.recent(c.Now()),
			Failing: failing, Image: func(profile string) string { return c.imageOf(firerunner.Runner{Profile: profile}) },
			Now: c.Now(), HoldAfter: c.set().HoldAfter,
		}
		for _, d := range placement.Decide(round, waiting) {
			r := byID[d.RunnerID]
			if d.Host == "" {
				if r.Message == d.Why {
					continue
				}
				r.Message = d.Why
				if err := ch.SaveRunner(ctx, &r); err != nil {
					return err
				}
				continue
			}
			r.Host, r.Controller, r.Address, r.Message = d.Host, carriers[d.Host], d.Address, ""
			message := "on host " + d.Host
			if d.Address.IsValid() {
				message += ", address " + d.Address.String()
			}
			if err := c.move(ctx, ch, &r, firerunner.Placed, firerunner.OwnerPlacement, message); err != nil {
				return err
			}
			ch.afterwards = append(ch.afterwards, func() { c.trials.place(r.ID, c.Now()) })
		}
		return nil
	})
}

// hostLabels are what a profile asks of a host.
func (c *Control) hostLabels(profile string) []string {
	p, _ := c.profile(profile)
	return p.Hosts
}
