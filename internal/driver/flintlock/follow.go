package flintlock

import (
	"context"
	"time"

	"github.com/firerunner/firerunner"
)

// Follow tells the reports that the ledger has, and then each as it comes: all of them come through this process. See
// firerunner.Driver. A microVM whose start was lost with an earlier daemon is ended here: who follows it waits for a
// guest that would be told nothing.
func (d *Driver) Follow(ctx context.Context, id string, after int64, report func(firerunner.GuestReport) error) error {
	vm, ok := d.vms.get(id)
	if !ok {
		return firerunner.Errorf(firerunner.NotFound, "flintlock: there is no microVM %.80q", id)
	}
	for {
		vm.mu.Lock()
		exited, changed, lost := vm.row.Exited, vm.changed, !vm.useful()
		vm.mu.Unlock()
		if lost && !exited && !d.vms.busy(id) {
			if err := d.finish(ctx, vm, "FireRunner was started anew before its guest had called"); err != nil {
				return err
			}
			continue
		}
		missed, err := d.cfg.Ledger.Reports(ctx, id, after)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return firerunner.Errorf(firerunner.CodeOf(err), "flintlock: reading the reports of microVM %s: %w", id, err)
		}
		select {
		case <-vm.gone:
			return firerunner.Errorf(firerunner.NotFound, "flintlock: microVM %s was destroyed", id)
		default:
		}
		for _, r := range missed {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := report(r); err != nil {
				return err
			}
			if after = r.Seq; r.Kind == firerunner.ReportExited {
				return nil
			}
		}
		if exited {
			return nil
		}
		select {
		case <-changed:
		case <-vm.gone:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// finish records that a microVM has ended, and why; the first reason counts. From then on its host deletes it, now or
// when it is back, after a crash too. Where the ledger does not take it, the clock tries again.
func (d *Driver) finish(ctx context.Context, vm *microVM, why string) error {
	vm.mu.Lock()
	if vm.row.Exited {
		vm.mu.Unlock()
		return nil
	}
	if vm.ending == "" {
		vm.ending = why
	}
	why, vm.start = vm.ending, nil
	row := vm.row
	vm.mu.Unlock()
	_, err := d.cfg.Ledger.AddReport(ctx, vm.id, 0, firerunner.GuestReport{
		Kind: firerunner.ReportExited, At: d.cfg.Now(), ExitCode: -1, Message: why,
	})
	switch firerunner.CodeOf(err) {
	case "", firerunner.Conflict, firerunner.NotFound: // recorded, or recorded before, or forgotten
	default:
		return firerunner.Errorf(firerunner.CodeOf(err), "flintlock: writing down the end of microVM %s: %w", vm.id, err)
	}
	vm.mu.Lock()
	vm.row.Exited = true
	vm.tell()
	vm.mu.Unlock()
	d.cfg.Logger.Info("a microVM has ended", "microvm", vm.id, "host", row.Host, "why", why)
	if host, err := d.host(row.Host); err == nil {
		host.look()
	}
	return nil
}

// Order puts an order where its guest takes it. See firerunner.Driver. A guest that was let in by an earlier daemon has
// a while to call again.
func (d *Driver) Order(ctx context.Context, id string, order firerunner.GuestOrder) error {
	if order != firerunner.OrderFinish && order != firerunner.OrderStop {
		return firerunner.Errorf(firerunner.Invalid, "flintlock: order %.20q is not one of finish, stop", string(order))
	}
	vm, ok := d.vms.get(id)
	if !ok {
		return firerunner.Errorf(firerunner.NotFound, "flintlock: there is no microVM %.80q", id)
	}
	deaf := func(why string) error {
		return firerunner.Errorf(firerunner.Unavailable, "flintlock: the guest of microVM %s does not listen: %s", id, why)
	}
	if row := vm.know(); !admitted(row) {
		return deaf("it has not called yet")
	}
	timer := time.NewTimer(d.cfg.OrderTimeout)
	defer timer.Stop()
	vm.mu.Lock()
	attach := vm.attach
	vm.mu.Unlock()
	select {
	case <-attach:
	case <-vm.gone:
		return deaf("it was destroyed")
	case <-timer.C:
		return deaf("it has not called again")
	case <-ctx.Done():
		return deaf(ctx.Err().Error())
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	silence := d.cfg.Now().Sub(vm.aliveAt)
	switch {
	case vm.row.Exited || vm.ending != "":
		return deaf("it has ended")
	case silence > d.cfg.HeartbeatTimeout/2 && !fromOutside(vm.row):
		return deaf("it has been silent for " + silence.Round(time.Second).String())
	}
	if vm.orders == nil {
		return deaf("it is being let go")
	}
	select {
	case vm.orders <- order:
		return nil
	default:
		return deaf("it has not taken earlier orders")
	}
}
