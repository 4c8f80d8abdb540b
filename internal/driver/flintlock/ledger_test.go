package flintlock

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

// ledger is a firerunner.Ledger in memory, as package storetest asks for it. It outlives drivers, as a database does.
type ledger struct {
	mu      sync.Mutex
	vms     map[string]firerunner.LedgerVM
	reports map[string][]firerunner.GuestReport
	fail    func(op, id string) error // nil, or its nil, is no fault
}

func newLedger() *ledger {
	return &ledger{vms: map[string]firerunner.LedgerVM{}, reports: map[string][]firerunner.GuestReport{}}
}

func (l *ledger) begin(ctx context.Context, op, id string) error {
	l.mu.Lock()
	fail := l.fail
	l.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if fail != nil {
		return fail(op, id)
	}
	return nil
}

func (l *ledger) breaks(fail func(op, id string) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = fail
}

func (l *ledger) SaveVM(ctx context.Context, vm firerunner.LedgerVM) error {
	if err := l.begin(ctx, "save", vm.ID); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if old, ok := l.vms[vm.ID]; ok {
		vm.Number, vm.Exited = old.Number, old.Exited
		if !old.UsedAt.IsZero() {
			vm.UsedAt, vm.Session = old.UsedAt, old.Session
		}
	}
	l.vms[vm.ID] = vm
	return nil
}

func (l *ledger) VM(ctx context.Context, id string) (firerunner.LedgerVM, error) {
	if err := l.begin(ctx, "read", id); err != nil {
		return firerunner.LedgerVM{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	vm, ok := l.vms[id]
	if !ok {
		return vm, firerunner.Errorf(firerunner.NotFound, "no microVM %s", id)
	}
	return vm, nil
}

func (l *ledger) VMs(ctx context.Context, driver string) ([]firerunner.LedgerVM, error) {
	if err := l.begin(ctx, "list", ""); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var vms []firerunner.LedgerVM
	for _, vm := range l.vms {
		if vm.Driver == driver {
			vms = append(vms, vm)
		}
	}
	slices.SortFunc(vms, func(a, b firerunner.LedgerVM) int { return strings.Compare(a.ID, b.ID) })
	return vms, nil
}

func (l *ledger) UseToken(ctx context.Context, id string, session [32]byte, at time.Time) (bool, error) {
	if err := l.begin(ctx, "use", id); err != nil {
		return false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	vm, ok := l.vms[id]
	switch {
	case !ok:
		return false, firerunner.Errorf(firerunner.NotFound, "no microVM %s", id)
	case !vm.UsedAt.IsZero():
		return false, nil
	}
	vm.UsedAt, vm.Session = at, session
	l.vms[id] = vm
	return true, nil
}

func (l *ledger) AddReport(ctx context.Context, id string, number int64, r firerunner.GuestReport) (bool, error) {
	if err := l.begin(ctx, "report", id); err != nil {
		return false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	vm, ok := l.vms[id]
	switch {
	case !ok:
		return false, firerunner.Errorf(firerunner.NotFound, "no microVM %s", id)
	case number > 0 && number <= vm.Number:
		return false, nil
	case vm.Exited:
		return false, firerunner.Errorf(firerunner.Conflict, "microVM %s has ended", id)
	}
	vm.Number, vm.Exited = max(vm.Number, number), r.Kind == firerunner.ReportExited
	l.vms[id] = vm
	r.Seq = int64(len(l.reports[id])) + 1
	l.reports[id] = append(l.reports[id], r)
	return true, nil
}

func (l *ledger) Reports(ctx context.Context, id string, after int64) ([]firerunner.GuestReport, error) {
	if err := l.begin(ctx, "reports", id); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.reports[id]
	return slices.Clone(all[min(after, int64(len(all))):]), nil
}

func (l *ledger) ForgetVM(ctx context.Context, id string) error {
	if err := l.begin(ctx, "forget", id); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.vms, id)
	delete(l.reports, id)
	return nil
}

// has reports whether anything of an ID is left.
func (l *ledger) has(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.vms[id]
	return ok || len(l.reports[id]) > 0
}

// row is a microVM without the error.
func (l *ledger) row(id string) firerunner.LedgerVM {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.vms[id]
}
