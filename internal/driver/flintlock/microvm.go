package flintlock

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"sort"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

// microVM is what this process knows of one: its row in the ledger, and what is in memory only.
type microVM struct {
	id   string
	gone chan struct{} // closed once it is forgotten

	mu      sync.Mutex
	row     firerunner.LedgerVM
	start   *firerunner.GuestStart // until its guest has it; nil after a restart of the daemon
	outside bool                   // it is provisioned over SSH: nobody in it is let in
	aliveAt time.Time              // its guest's last sign of life
	until   time.Time              // its row's deadline by a clock that never jumps, from when this process knows it
	ending  string                 // why it ends, as long as the ledger has not taken that
	orders  chan firerunner.GuestOrder
	attach  chan struct{} // closed once its guest listens for orders
	console console
	changed chan struct{} // closed and made anew with each report
	// removing is when its host was last told to delete a uid of its name.
	removing map[string]time.Time
}

func newMicroVM(row firerunner.LedgerVM, now time.Time) *microVM {
	return &microVM{
		id: row.ID, row: row, until: now.Add(row.Deadline.Sub(now)), gone: make(chan struct{}), changed: make(chan struct{}), attach: make(chan struct{}),
		removing: map[string]time.Time{},
	}
}

// tell wakes who follows it. The lock is held.
func (vm *microVM) tell() {
	close(vm.changed)
	vm.changed = make(chan struct{})
}

// letGo ends the connection of its guest: who has it hears of no order any more.
func (vm *microVM) letGo() {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.orders != nil {
		close(vm.orders)
		vm.orders, vm.attach = nil, make(chan struct{})
	}
}

// know returns its row.
func (vm *microVM) know() firerunner.LedgerVM {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return vm.row
}

// admitted reports whether its guest was let in.
func admitted(row firerunner.LedgerVM) bool { return !row.UsedAt.IsZero() }

// useful reports whether anything can still come of it: it has not ended, and its guest has its start, or can get it.
// Whoever's start was lost with an earlier daemon is as good as dead. The lock is held.
func (vm *microVM) useful() bool {
	return !vm.row.Exited && vm.ending == "" && (admitted(vm.row) || vm.start != nil)
}

// seen is the microVM as List tells it.
func (vm *microVM) seen() firerunner.MicroVM {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return firerunner.MicroVM{
		ID: vm.id, Host: vm.row.Host, Alive: vm.useful(), CreatedAt: vm.row.CreatedAt, Deadline: vm.row.Deadline,
	}
}

// registry is every microVM of the ledger, and who works on which.
type registry struct {
	mu    sync.Mutex
	vms   map[string]*microVM
	locks map[string]*idLock
}

// idLock lets one Create or Destroy at a time work on one ID.
type idLock struct {
	held chan struct{}
	want int
}

func newRegistry() *registry {
	return &registry{vms: map[string]*microVM{}, locks: map[string]*idLock{}}
}

func (r *registry) add(vm *microVM) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.vms[vm.id] = vm
}

func (r *registry) get(id string) (*microVM, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	vm, ok := r.vms[id]
	return vm, ok
}

// drop forgets a microVM and ends who follows it.
func (r *registry) drop(vm *microVM) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.vms[vm.id] == vm {
		delete(r.vms, vm.id)
		close(vm.gone)
	}
}

// all returns every microVM, by ID.
func (r *registry) all() []*microVM {
	r.mu.Lock()
	defer r.mu.Unlock()
	vms := make([]*microVM, 0, len(r.vms))
	for _, vm := range r.vms {
		vms = append(vms, vm)
	}
	sort.Slice(vms, func(i, j int) bool { return vms[i].id < vms[j].id })
	return vms
}

// lock waits until nobody else works on the ID.
func (r *registry) lock(ctx context.Context, id string) (unlock func(), err error) {
	r.mu.Lock()
	l, ok := r.locks[id]
	if !ok {
		l = &idLock{held: make(chan struct{}, 1)}
		r.locks[id] = l
	}
	l.want++
	r.mu.Unlock()
	left := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if l.want--; l.want == 0 {
			delete(r.locks, id)
		}
	}
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; left() }, nil
	case <-ctx.Done():
		left()
		return nil, ctx.Err()
	}
}

// busy reports whether somebody works on the ID now.
func (r *registry) busy(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.locks[id] != nil
}

// newSecret returns 256 random bits as text, and their hash, which is all that is ever written down.
func newSecret() (firerunner.Secret, [32]byte, error) {
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", [32]byte{}, firerunner.Errorf(firerunner.Internal, "flintlock: reading random bytes: %w", err)
	}
	text := base64.RawURLEncoding.EncodeToString(b[:])
	return firerunner.Secret(text), sha256.Sum256([]byte(text)), nil
}
