package flintlock

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/reportlog"
)

// maxFailure is the longest failure reason of a report in bytes.
const maxFailure = 128

// ordersKept is how many orders wait for a guest: there are two kinds, and nobody gives one often.
const ordersKept = 8

// Admit lets a guest in, once. See firerunner.GuestDesk. The credential is in memory from Create until here, and
// nowhere after.
func (d *Driver) Admit(ctx context.Context, id string, token firerunner.Secret) (firerunner.GuestStart, firerunner.Secret, error) {
	none := func(err error) (firerunner.GuestStart, firerunner.Secret, error) {
		return firerunner.GuestStart{}, "", err
	}
	vm, row, err := d.known(id, token, func(row firerunner.LedgerVM) [32]byte { return row.Token })
	if err != nil {
		return none(err)
	}
	vm.mu.Lock()
	if vm.outside || fromOutside(vm.row) {
		vm.mu.Unlock()
		return none(stranger(id))
	}
	ended, lost := vm.row.Exited || vm.ending != "", vm.start == nil && !admitted(vm.row)
	vm.mu.Unlock()
	switch {
	case admitted(row):
		return none(d.secondBoot(ctx, vm))
	case ended:
		return none(firerunner.Errorf(firerunner.Conflict, "flintlock: microVM %s has ended", id))
	case lost && d.vms.busy(id):
		return none(firerunner.Errorf(firerunner.Unavailable, "flintlock: microVM %s is being taken over", id))
	case lost:
		return none(d.startLost(ctx, vm))
	}
	session, hash, err := newSecret()
	if err != nil {
		return none(err)
	}
	now := d.cfg.Now()
	first, err := d.cfg.Ledger.UseToken(ctx, id, hash, now)
	switch {
	case firerunner.CodeOf(err) == firerunner.NotFound:
		return none(stranger(id))
	case err != nil:
		return none(firerunner.Errorf(firerunner.CodeOf(err), "flintlock: letting the guest of microVM %s in: %w", id, err))
	case !first:
		return none(d.secondBoot(ctx, vm))
	}
	vm.mu.Lock()
	start := vm.start
	vm.start, vm.aliveAt, vm.row.UsedAt, vm.row.Session = nil, now, now, hash
	vm.mu.Unlock()
	d.stir()
	if start == nil { // it ended in this very moment
		return none(d.startLost(ctx, vm))
	}
	return *start, session, nil
}

// known returns the microVM whose secret it is. Whoever guesses learns nothing from how long it takes.
func (d *Driver) known(id string, secret firerunner.Secret, of func(firerunner.LedgerVM) [32]byte) (*microVM, firerunner.LedgerVM, error) {
	hash := sha256.Sum256([]byte(secret.Reveal()))
	var row firerunner.LedgerVM
	vm, ok := d.vms.get(id)
	if ok {
		row = vm.know()
	}
	want := of(row)
	if same := subtle.ConstantTimeCompare(hash[:], want[:]) == 1; !same || !ok || want == ([32]byte{}) {
		return nil, row, stranger(id)
	}
	return vm, row, nil
}

func stranger(id string) error {
	return firerunner.Errorf(firerunner.Unauthorized, "flintlock: there is no microVM %.80q with that token", id)
}

// closing gives what must be written down a time of its own: the guest may hang up.
func closing(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), afterwards)
}

// secondBoot ends a microVM whose token was used before: flintlockd boots a dead one again on its old disk, and what
// ran there must not run twice. Whoever stole the token ends only the microVM it was stolen from.
func (d *Driver) secondBoot(ctx context.Context, vm *microVM) error {
	const why = "booted a second time on its old disk: its token had been used"
	ctx, cancel := closing(ctx)
	defer cancel()
	if _, err := d.cfg.Ledger.AddReport(ctx, vm.id, 0, firerunner.GuestReport{
		Kind: firerunner.ReportError, At: d.cfg.Now(), Message: why,
	}); err == nil {
		vm.mu.Lock()
		vm.tell()
		vm.mu.Unlock()
	}
	if err := d.finish(ctx, vm, why); err != nil {
		d.cfg.Logger.Warn("could not write an end down; trying again", "microvm", vm.id, "error", err)
		d.stir()
	}
	return firerunner.Errorf(firerunner.Conflict, "flintlock: microVM %s %s", vm.id, why)
}

// startLost ends a microVM whose guest nobody has a start for.
func (d *Driver) startLost(ctx context.Context, vm *microVM) error {
	ctx, cancel := closing(ctx)
	defer cancel()
	if err := d.finish(ctx, vm, "FireRunner was started anew before its guest had called"); err != nil {
		d.cfg.Logger.Warn("could not write an end down; trying again", "microvm", vm.id, "error", err)
		d.stir()
	}
	return firerunner.Errorf(firerunner.NotFound, "flintlock: the start of microVM %s is lost", vm.id)
}

// Return lets a guest in again. See firerunner.GuestDesk.
func (d *Driver) Return(ctx context.Context, id string, session firerunner.Secret) (last int64, err error) {
	d.refresh(ctx, id)
	vm, row, err := d.known(id, session, func(row firerunner.LedgerVM) [32]byte { return row.Session })
	if err != nil {
		return 0, err
	}
	if row.Exited {
		return 0, firerunner.Errorf(firerunner.Conflict, "flintlock: microVM %s has ended", id)
	}
	fresh, err := d.cfg.Ledger.VM(ctx, id)
	if err != nil {
		return 0, firerunner.Errorf(firerunner.CodeOf(err), "flintlock: reading what the guest of microVM %s said: %w", id, err)
	}
	vm.hear(d.cfg.Now())
	vm.mu.Lock()
	vm.tell() // whoever stood in for us, or had this partition before, may have written down more
	vm.mu.Unlock()
	return fresh.Number, nil
}

// refresh reads again whether the guest of a microVM was let in, where it was not as far as we know: a process that had
// this partition before and was taken for dead may have done it in its last moment.
func (d *Driver) refresh(ctx context.Context, id string) {
	vm, ok := d.vms.get(id)
	if !ok || admitted(vm.know()) {
		return
	}
	fresh, err := d.cfg.Ledger.VM(ctx, id)
	if err != nil || !admitted(fresh) {
		return
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.row.UsedAt, vm.row.Session, vm.start = fresh.UsedAt, fresh.Session, nil
}

// hear notes a sign of life.
func (vm *microVM) hear(now time.Time) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if admitted(vm.row) && !vm.row.Exited {
		vm.aliveAt = now
	}
}

// Record writes a report down. See firerunner.GuestDesk. With the end of gitlab-runner the microVM is over: its host
// would boot it again, so it is not waited until it has turned itself off.
func (d *Driver) Record(ctx context.Context, id string, number int64, r firerunner.GuestReport) error {
	vm, ok := d.vms.get(id)
	if !ok || !admitted(vm.know()) {
		return firerunner.Errorf(firerunner.NotFound, "flintlock: there is no microVM %.80q with a guest", id)
	}
	if !reported(r.Kind) || number <= 0 {
		return firerunner.Errorf(firerunner.Invalid, "flintlock: the guest of microVM %s reports %d of kind %.32q", id, number, r.Kind)
	}
	r.Seq, r.At = 0, d.cfg.Now()
	r.Message, r.Failure = reportlog.Clean(r.Message, reportlog.MaxMessage), reportlog.Clean(r.Failure, maxFailure)
	added, err := d.cfg.Ledger.AddReport(ctx, id, number, r)
	if err != nil {
		return firerunner.Errorf(firerunner.CodeOf(err), "flintlock: writing down a report of microVM %s: %w", id, err)
	}
	vm.hear(r.At)
	if added {
		vm.mu.Lock()
		vm.tell()
		vm.mu.Unlock()
	}
	if r.Kind != firerunner.ReportRunnerExited {
		return nil
	}
	ending, cancel := closing(ctx)
	defer cancel()
	return d.finish(ending, vm, "its gitlab-runner had ended, and it was removed")
}

// reported reports whether a guest may say it.
func reported(k firerunner.ReportKind) bool {
	switch k {
	case firerunner.ReportHello, firerunner.ReportStarted, firerunner.ReportTookJob, firerunner.ReportJobDone,
		firerunner.ReportNotice, firerunner.ReportRunnerExited, firerunner.ReportError:
		return true
	}
	return false
}

// Alive notes a sign of life. See firerunner.GuestDesk.
func (d *Driver) Alive(id string) {
	if vm, ok := d.vms.get(id); ok {
		vm.hear(d.cfg.Now())
	}
}

// Orders returns the orders for a guest. See firerunner.GuestDesk.
func (d *Driver) Orders(id string) <-chan firerunner.GuestOrder {
	next := make(chan firerunner.GuestOrder, ordersKept)
	vm, ok := d.vms.get(id)
	if !ok {
		close(next)
		return next
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if d.life.Err() != nil { // closed meanwhile: it has let go of the others, and this one is to call again too
		close(next)
		return next
	}
	if vm.orders == nil {
		close(vm.attach)
	} else {
		for {
			select {
			case order := <-vm.orders:
				next <- order // there is room: it has as many places
				continue
			default:
			}
			break
		}
		close(vm.orders)
	}
	vm.orders = next
	return next
}
