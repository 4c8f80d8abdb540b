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
		live, err := ch.Runners(ctx, firerunner.RunnerQuery{Live: true})
		if err != nil {
			return err
		}
		hosts, err := ch.Hosts(ctx)
		if err != nil {
			return err
		}
		byID := map[string]firerunner.Runner{}
		var waiting []firerunner.Runner
		for _, r := range live {
			if r.State == firerunner.Queued && r.Desired == firerunner.Wanted {
				waiting = append(waiting, r) // ordered by ID, so by age
				byID[r.ID] = r
			}
		}
		for _, d := range placement.Decide(waiting, placement.NewLoads(hosts, live)) {
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
			r.Host, r.Message = d.Host, ""
			if err := c.move(ctx, ch, &r, firerunner.Placed, firerunner.OwnerPlacement, "on host "+d.Host); err != nil {
				return err
			}
		}
		return nil
	})
}
