package flintlock

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

// List returns every microVM of the ledger, and what hosts that answer have of ours besides. See firerunner.Driver. A
// host that does not answer hides nothing that the ledger knows, and its orphans are listed when it is back. An orphan
// is not alive: nobody has a start for its guest.
func (d *Driver) List(ctx context.Context) ([]firerunner.MicroVM, error) {
	type found struct {
		host string
		vm   *types.MicroVM
	}
	var mu sync.Mutex
	var there []found
	d.everyHost(func(h *daemon) {
		vms, err := h.list(ctx, d.cfg.Namespace, "")
		if err != nil {
			d.cfg.Logger.Debug("a host could not be asked what it has", "host", h.Name, "error", err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, vm := range vms {
			there = append(there, found{h.Name, vm})
		}
	})
	if err := ctx.Err(); err != nil {
		return nil, firerunner.Errorf(firerunner.Unavailable, "flintlock: listing microVMs: %w", err)
	}
	// After the hosts: what they have now was written down before.
	var vms []firerunner.MicroVM
	known := map[string]bool{}
	for _, vm := range d.vms.all() {
		known[vm.id] = true
		vms = append(vms, vm.seen())
	}
	orphans := map[string]string{}
	for _, f := range there {
		id := f.vm.GetSpec().GetId()
		switch {
		case known[id]:
		case !nameForm.MatchString(id):
			d.cfg.Logger.Warn("a host has a microVM in our namespace with a name that is not ours", "host", f.host, "uid", f.vm.GetSpec().GetUid())
		default:
			known[id] = true
			orphans[id] = f.host
			vms = append(vms, firerunner.MicroVM{ID: id, Host: f.host})
		}
	}
	d.mu.Lock()
	d.orphans = orphans
	d.mu.Unlock()
	slices.SortFunc(vms, func(a, b firerunner.MicroVM) int { return strings.Compare(a.ID, b.ID) })
	return vms, nil
}
