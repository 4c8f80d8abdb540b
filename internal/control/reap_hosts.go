package control

import (
	"context"
	"errors"
	"fmt"

	"github.com/firerunner/firerunner"
)

// reapHosts compares what the driver has with the rows, both ways. Each controller does it for its own driver.
func (c *Control) reapHosts(ctx context.Context, o ReapOptions) ([]Leftover, error) {
	rows, err := c.Store.Hosts(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the hosts: %w", err)
	}
	// Lost hosts do not answer. One that answers again, and has something of ours that nobody owns, is cleared of it: who
	// leads sees its own part only, and waits for the others'.
	silent := map[string]bool{}
	for _, h := range rows {
		silent[h.Name] = h.Lost && (c.alone() || h.Trouble == noAnswer)
	}
	bereft, bereftErr := c.reapRunners(ctx, o, silent)
	strays, strayErr := c.reapVMs(ctx, o, func(vm firerunner.MicroVM) bool { return !silent[vm.Host] })
	return append(strays, bereft...), errors.Join(strayErr, bereftErr)
}

// reapVMs removes microVMs without a live row. A driver of many hosts lists those that answer beside its error.
func (c *Control) reapVMs(ctx context.Context, o ReapOptions, which func(firerunner.MicroVM) bool) ([]Leftover, error) {
	vms, err := c.Driver.List(ctx) // before the rows: a microVM that is made meanwhile has its row already
	errs := []error{wrap(err, "listing microVMs")}
	owned, err := c.owned(ctx)
	if err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	var found []Leftover
	for _, vm := range vms {
		left := Leftover{Kind: LeftMicroVM, ID: vm.ID, Host: vm.Host, Born: c.bornAt(vm), Why: "no live runner has it"}
		if owned[vm.ID] || !which(vm) || o.young(left.Born, c.Now()) {
			continue
		}
		if !vm.Alive {
			left.Why = "no live runner has it; it has ended, and something of it is left"
		}
		if !o.DryRun {
			removed, err := c.reapVM(ctx, vm.ID)
			if err == nil && !removed {
				continue
			}
			left.Err = err
			errs = append(errs, err)
		}
		found = append(found, left)
	}
	return found, errors.Join(errs...)
}

func (c *Control) reapVM(ctx context.Context, id string) (removed bool, err error) {
	if free, err := c.disowned(ctx, id); err != nil || !free {
		return false, err
	}
	if err := c.Driver.Destroy(ctx, id); err != nil {
		return false, fmt.Errorf("reaping microVM %s: %w", id, err)
	}
	return true, c.reaped(ctx, id, "a microVM without a live runner")
}

// reapRunners ends live runners whose microVM is not there any more. Who listens to its guest notices by itself; this is
// for those to whom nobody listens.
func (c *Control) reapRunners(ctx context.Context, o ReapOptions, silent map[string]bool) ([]Leftover, error) {
	watched, err := c.Store.Runners(ctx, firerunner.RunnerQuery{
		Live: true, States: []firerunner.State{firerunner.Booting, firerunner.Ready, firerunner.Running},
	})
	if err != nil || len(watched) == 0 {
		return nil, wrap(err, "reading runners that have a microVM")
	}
	vms, err := c.Driver.List(ctx) // after the rows: whoever was in one of those states then has been made
	if err != nil {
		return nil, fmt.Errorf("listing microVMs: %w", err)
	}
	there := map[string]bool{}
	for _, vm := range vms {
		there[vm.ID] = true
	}
	var found []Leftover
	var errs []error
	for _, r := range watched {
		if r.Controller != c.Controller || there[r.ID] || silent[r.Host] || !c.serves(r.Host) || o.young(r.MovedAt, c.Now()) {
			continue
		}
		left := Leftover{Kind: LeftRunner, ID: r.ID, Host: r.Host, GitLabID: max(r.GitLabID, 0), Born: r.CreatedAt, Why: fmt.Sprintf("it is %s and its microVM is not there", r.State)}
		if !o.DryRun {
			if left.Err = c.lost(ctx, r.ID); left.Err != nil {
				errs = append(errs, fmt.Errorf("ending runner %s, whose microVM is gone: %w", r.ID, left.Err))
			}
		}
		found = append(found, left)
	}
	return found, errors.Join(errs...)
}

// serves reports whether the driver would list a microVM of that host.
func (c *Control) serves(host string) bool {
	return c.LocalHost == "" || host == c.LocalHost
}
