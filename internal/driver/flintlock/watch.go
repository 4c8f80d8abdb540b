package flintlock

import (
	"context"
	"fmt"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

// watch looks at a host from time to time, and often while something is being made or removed there. It ends what the
// host could not make or does not have any more, and deletes what has ended.
func (d *Driver) watch(ctx context.Context, host *daemon) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-host.poke:
		case <-ctx.Done():
			return
		}
		next := d.cfg.LookEvery
		if d.lookAt(ctx, host) {
			next = d.cfg.BusyEvery
		}
		timer.Reset(next)
	}
}

// lookAt is one look; it reports whether the next should be soon.
func (d *Driver) lookAt(ctx context.Context, host *daemon) (soon bool) {
	// What is known, before the host is asked: what it does not list then, it does not have.
	known := map[string]*microVM{}
	rows := map[string]firerunner.LedgerVM{}
	for _, vm := range d.vms.all() {
		if row := vm.know(); row.Host == host.Name {
			known[vm.id], rows[vm.id] = vm, row
		}
	}
	if len(known) == 0 {
		return false
	}
	there, err := host.list(ctx, d.cfg.Namespace, "")
	if err != nil {
		if ctx.Err() == nil {
			d.cfg.Logger.Debug("a host could not be looked at", "host", host.Name, "error", err)
		}
		return false
	}
	byName := map[string][]*types.MicroVM{}
	for _, vm := range there {
		byName[vm.GetSpec().GetId()] = append(byName[vm.GetSpec().GetId()], vm)
	}
	for id, vm := range known {
		if d.vms.busy(id) {
			soon = true // Create or Destroy knows better
			continue
		}
		if d.judge(ctx, host, vm, rows[id], byName[id]) {
			soon = true
		}
	}
	return soon
}

// whyNot is what a host that could not make a microVM leaves to guess: its API does not tell.
const whyNot = "an image that cannot be pulled, a thin pool that is full or a bridge that is not there; the log of its flintlockd says which"

// judge compares one microVM with what its host has under its name.
func (d *Driver) judge(ctx context.Context, host *daemon, vm *microVM, row firerunner.LedgerVM, there []*types.MicroVM) (soon bool) {
	var own *types.MicroVM
	for _, t := range there {
		if uid := t.GetSpec().GetUid(); uid == row.Ref {
			own = t
		} else if row.Ref != "" {
			d.delete(ctx, host, vm, uid, "a second one of its name")
			soon = true
		}
	}
	switch {
	case row.Exited:
		for _, t := range there {
			d.delete(ctx, host, vm, t.GetSpec().GetUid(), "it has ended")
			soon = true
		}
		return soon
	case row.Ref == "":
		return soon // Create was cut short; it is made again or destroyed
	case own == nil:
		if _, ok, err := host.get(ctx, row.Ref); ok || err != nil {
			return true // a list may be wrong
		}
		d.finishNow(ctx, vm, "its host no longer has it")
		return soon
	}
	switch state := own.GetStatus().GetState(); {
	case state == types.MicroVMStatus_FAILED && !admitted(row):
		d.finishNow(ctx, vm, fmt.Sprintf("host %s could not make it, and has given up: %s", host.Name, whyNot))
	case state == types.MicroVMStatus_PENDING && own.GetStatus().GetRetry() >= 1 && !admitted(row):
		// flintlockd tries for another 20 minutes; the job is better off elsewhere.
		d.finishNow(ctx, vm, fmt.Sprintf("host %s could not make it at the first try: %s", host.Name, whyNot))
	case state == types.MicroVMStatus_DELETING:
		d.finishNow(ctx, vm, "it is being deleted on its host, and not by FireRunner")
	case state == types.MicroVMStatus_PENDING:
	default:
		return soon
	}
	return true
}

// delete has the host delete one, and does not wait. It is told again only after a while.
func (d *Driver) delete(ctx context.Context, host *daemon, vm *microVM, uid, why string) {
	vm.mu.Lock()
	again := vm.removing[uid]
	vm.mu.Unlock()
	if time.Since(again) < removeAgain {
		return
	}
	if err := host.remove(ctx, uid); err != nil {
		d.cfg.Logger.Warn("a host could not be told to delete a microVM; trying again",
			"microvm", vm.id, "host", host.Name, "uid", uid, "why", why, "error", host.fault(err, "deleting"))
		return
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.removing[uid] = time.Now()
}

// finishNow ends one, and leaves it to the clock where the ledger does not take it.
func (d *Driver) finishNow(ctx context.Context, vm *microVM, why string) {
	if err := d.finish(ctx, vm, why); err != nil {
		d.cfg.Logger.Warn("could not write an end down; trying again", "microvm", vm.id, "error", err)
		d.stir()
	}
}
