package flintlock

import (
	"context"
	"fmt"
	"sort"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

// afterwards is how long is looked for what a failed call left, even if the caller has gone.
const afterwards = 5 * time.Second

// Create makes a microVM. See firerunner.Driver. It returns once the host has accepted it; that it could not be made
// after all comes as ReportExited. After a crash, or an answer that did not come, the same Create goes on with what is
// there: one that its host has already is taken over with a new start, because its guest still has the token to it.
func (d *Driver) Create(ctx context.Context, spec firerunner.MicroVMSpec) (firerunner.MicroVM, error) {
	now := d.cfg.Now()
	switch {
	case !nameForm.MatchString(spec.ID):
		return firerunner.MicroVM{}, firerunner.Errorf(firerunner.Invalid, "flintlock: id %.80q is not 1 to 31 of a-z, 0-9 and -", spec.ID)
	case !spec.Deadline.After(now):
		return firerunner.MicroVM{}, firerunner.Errorf(firerunner.Invalid, "flintlock: microVM %s has no deadline ahead", spec.ID)
	case ctx.Err() != nil:
		return firerunner.MicroVM{}, firerunner.Errorf(firerunner.Unavailable, "flintlock: creating microVM %s: %w", spec.ID, ctx.Err())
	}
	unlock, err := d.vms.lock(ctx, spec.ID)
	if err != nil {
		return firerunner.MicroVM{}, firerunner.Errorf(firerunner.Unavailable, "flintlock: creating microVM %s: %w", spec.ID, err)
	}
	defer unlock()
	vm, known := d.vms.get(spec.ID)
	if known {
		if !resumable(vm) {
			return vm.seen(), nil
		}
		spec.Host = vm.know().Host // where it was meant to be is where it may be
	}
	token, hash, err := newSecret()
	if err != nil {
		return firerunner.MicroVM{}, err
	}
	host, err := d.host(spec.Host)
	if err != nil {
		return firerunner.MicroVM{}, err
	}
	outside, err := d.outside(spec)
	if err != nil {
		return firerunner.MicroVM{}, err
	}
	request, err := d.cfg.request(host.Host, spec, token)
	if err == nil && outside != nil {
		request.Metadata, err = outsideMetadata(spec, token, outside.UserData)
		outsideNetwork(request, spec.Address)
	}
	if err == nil {
		err = rules{stateDir: host.stateDir(), tags: d.cfg.AllowTags}.validate(request)
	}
	if err != nil {
		return firerunner.MicroVM{}, firerunner.Errorf(firerunner.Invalid, "host %s would not take microVM %s: %w", host.Name, spec.ID, err).
			WithHint("%s", or(firerunner.HintOf(err), "see docs/OPERATIONS.md on hosts with Flintlock"))
	}
	if !known {
		vm = newMicroVM(firerunner.LedgerVM{
			ID: spec.ID, Driver: d.cfg.Partition, Host: spec.Host, Token: hash,
			CreatedAt: now.UTC().Truncate(time.Microsecond), Deadline: spec.Deadline,
		}, now)
		if err := d.cfg.Ledger.SaveVM(ctx, vm.row); err != nil {
			return firerunner.MicroVM{}, firerunner.Errorf(firerunner.CodeOf(err), "flintlock: writing down microVM %s: %w", spec.ID, err)
		}
		d.vms.add(vm)
	}
	if err := d.make(ctx, host, vm, request, spec, hash, !known); err != nil {
		return firerunner.MicroVM{}, err
	}
	if outside != nil {
		d.provision(vm, *outside, spec)
	}
	d.stir()
	host.look()
	return vm.seen(), nil
}

// resumable reports whether Create has anything left to do for a microVM that is known: its guest has no start yet.
func resumable(vm *microVM) bool {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return !vm.row.Exited && vm.ending == "" && !admitted(vm.row) && (vm.start == nil || vm.row.Ref == "")
}

// make has the host make the microVM of a row unless it has it, and writes the uid down. fresh: nothing was ever asked
// of the host for this row.
func (d *Driver) make(ctx context.Context, host *daemon, vm *microVM, request *types.MicroVMSpec, spec firerunner.MicroVMSpec,
	hash [32]byte, fresh bool,
) error {
	doing := "making microVM " + vm.id
	there, err := host.list(ctx, d.cfg.Namespace, vm.id)
	if err != nil {
		d.unmade(ctx, vm, fresh)
		return host.fault(err, doing+": looking whether it is there")
	}
	uid := ""
	if spec.Provision == firerunner.ProvisionSSH {
		err = d.removeAll(ctx, host, there) // whoever made it had the keys
	} else {
		uid, err = d.settle(ctx, host, vm.know(), there)
	}
	if err != nil {
		d.unmade(ctx, vm, false)
		return host.fault(err, doing+": removing a second one of its name")
	}
	// Before anything is sent: the guest may call before the answer has come.
	vm.begin(spec, d.cfg.Now())
	if uid == "" {
		if err := d.renew(ctx, vm, hash); err != nil {
			return err
		}
		if uid, err = host.create(ctx, request); err != nil {
			// The answer may be lost and the microVM made. Whoever called may have gone, so this has a time of its own.
			after, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
			defer cancel()
			fault := host.fault(err, doing)
			surely := refused(err)
			if !surely {
				there, listErr := host.list(after, d.cfg.Namespace, vm.id)
				if listErr == nil {
					uid, listErr = d.settle(after, host, vm.know(), there)
				}
				if listErr == nil && uid != "" {
					return d.made(after, host, vm, uid)
				}
				surely = listErr == nil && answered(err)
			}
			d.unmade(after, vm, surely)
			return fault
		}
	}
	return d.made(ctx, host, vm, uid)
}

// begin gives a microVM the start that its guest will get.
func (vm *microVM) begin(spec firerunner.MicroVMSpec, now time.Time) {
	start := spec.Start
	if start.Network.Address == "" {
		start.Network = spec.Address
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.start, vm.aliveAt, vm.row.Deadline, vm.until = &start, now, spec.Deadline, now.Add(spec.Deadline.Sub(now))
	vm.outside = spec.Provision == firerunner.ProvisionSSH
}

// renew writes down the token of the request that is about to be sent.
func (d *Driver) renew(ctx context.Context, vm *microVM, hash [32]byte) error {
	row := vm.know()
	if row.Token == hash && row.Ref == "" {
		return nil
	}
	row.Token, row.Ref = hash, "" // what had the uid is gone
	if err := d.cfg.Ledger.SaveVM(ctx, row); err != nil {
		vm.lose()
		return firerunner.Errorf(firerunner.CodeOf(err), "flintlock: writing down microVM %s: %w", vm.id, err)
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.row.Token, vm.row.Ref = hash, ""
	return nil
}

// lose takes the start away again.
func (vm *microVM) lose() {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.start = nil
}

// made writes the uid down. It is done even if the caller has gone: without it the next process has to search.
func (d *Driver) made(ctx context.Context, host *daemon, vm *microVM, uid string) error {
	vm.mu.Lock()
	vm.row.Ref = uid
	row := vm.row
	vm.mu.Unlock()
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	if err := d.cfg.Ledger.SaveVM(after, row); err != nil {
		vm.lose() // List shows it, and as dead, so that it is destroyed
		return firerunner.Errorf(firerunner.CodeOf(err), "flintlock: writing down the uid of microVM %s on %s: %w", vm.id, host.Name, err)
	}
	return nil
}

// unmade ends a Create that failed. What certainly is not there is forgotten; the rest stays in the ledger, without a
// start, so that List shows it and Destroy looks for it again.
func (d *Driver) unmade(ctx context.Context, vm *microVM, surely bool) {
	vm.lose()
	if !surely || vm.know().Ref != "" {
		return
	}
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	if err := d.cfg.Ledger.ForgetVM(after, vm.id); err != nil {
		d.cfg.Logger.Warn("could not forget a microVM that was not made", "microvm", vm.id, "error", err)
		return
	}
	d.vms.drop(vm)
}

// removeAll has a host delete what it has under one name.
func (d *Driver) removeAll(ctx context.Context, host *daemon, there []*types.MicroVM) error {
	for _, vm := range there {
		if err := host.remove(ctx, vm.GetSpec().GetUid()); err != nil {
			return fmt.Errorf("uid %s: %w", vm.GetSpec().GetUid(), err)
		}
	}
	return nil
}

// settle picks, of what a host has under one name, the one that is ours to keep, and has the others deleted: each was
// made by a call whose answer was lost. It is the one that the ledger names, else one whose guest has the token that
// the ledger knows; a host that does not tell tokens is believed to have the first. No uid means that there is none.
func (d *Driver) settle(ctx context.Context, host *daemon, row firerunner.LedgerVM, there []*types.MicroVM) (uid string, err error) {
	sort.Slice(there, func(i, j int) bool { return there[i].GetSpec().GetUid() < there[j].GetSpec().GetUid() }) // by age
	rank := func(vm *types.MicroVM) int {
		hash, told := tokenHash(vm)
		switch {
		case vm.GetStatus().GetState() == types.MicroVMStatus_DELETING:
			return 0
		case row.Ref != "" && vm.GetSpec().GetUid() == row.Ref:
			return 3
		case told && hash == row.Token:
			return 2
		case !told:
			return 1
		}
		return 0
	}
	best := 0
	for _, vm := range there {
		if r := rank(vm); r > best {
			best, uid = r, vm.GetSpec().GetUid()
		}
	}
	for _, vm := range there {
		if other := vm.GetSpec().GetUid(); other != uid {
			d.cfg.Logger.Info("removing a second microVM of one name", "microvm", row.ID, "host", host.Name, "uid", other)
			if err := host.remove(ctx, other); err != nil {
				return "", fmt.Errorf("uid %s: %w", other, err)
			}
		}
	}
	return uid, nil
}
