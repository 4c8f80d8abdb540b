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
		changed, ended, err := d.tellOf(ctx, vm, &after, report)
		if err != nil || ended {
			return err
		}
		if changed == nil {
			continue
		}
		select {
		case <-changed:
		case <-vm.gone:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tellOf tells the reports after the number, which it moves on, and returns what is closed when there may be more, nil
// where that is now; or that there will be none. It is no part of Follow, whose goroutines are as many as microVMs, and wait.
func (d *Driver) tellOf(ctx context.Context, vm *microVM, after *int64, report func(firerunner.GuestReport) error) (changed <-chan struct{}, ended bool, err error) {
	vm.mu.Lock()
	exited, changed, lost := vm.row.Exited, vm.changed, !vm.useful()
	vm.mu.Unlock()
	if lost && !exited && !d.vms.busy(vm.id) {
		return nil, false, d.finish(ctx, vm, "FireRunner was started anew before its guest had called")
	}
	missed, err := d.cfg.Ledger.Reports(ctx, vm.id, *after)
	if err != nil {
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
		return nil, false, firerunner.Errorf(firerunner.CodeOf(err), "flintlock: reading the reports of microVM %s: %w", vm.id, err)
	}
	select {
	case <-vm.gone:
		return nil, false, firerunner.Errorf(firerunner.NotFound, "flintlock: microVM %s was destroyed", vm.id)
	default:
	}
	for _, r := range missed {
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		if err := report(r); err != nil {
			return nil, false, err
		}
		if *after = r.Seq; r.Kind == firerunner.ReportExited {
			return nil, true, nil
		}
	}
	return changed, exited, nil
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
