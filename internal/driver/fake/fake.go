// Package fake is a driver whose microVMs are goroutines of this process. It ships in the binary, for load tests and
// for trying FireRunner out: control, placement, GitLab and queue are real, only the machines are not.
//
// Its guests speak the runner's protocol with GitLab over real HTTP (RunnerGuest), so a job goes through its whole
// life. Faults can be configured. It holds nothing back that a real driver holds back: it is no isolation at all.
package fake

import (
	"context"
	"errors"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/reportlog"
)

// GuestFunc is what runs in a microVM. Its first report should be hello; orders are taken from then on. It ends with
// its context. What it returns becomes the microVM's last message.
type GuestFunc func(ctx context.Context, spec firerunner.MicroVMSpec, report func(firerunner.GuestReport), orders <-chan firerunner.GuestOrder) error

// Config is what a Driver needs; all of it may be empty.
type Config struct {
	Name        string        // empty = "fake"
	Guest       GuestFunc     // nil = RunnerGuest
	HTTP        *http.Client  // for RunnerGuest; nil = http.DefaultClient
	Poll        time.Duration // how often RunnerGuest asks for its job; 0 = 3 s, as gitlab-runner does
	JobTime     time.Duration // how long RunnerGuest's job takes
	BootTime    time.Duration // from Create to the guest's first word
	DestroyTime time.Duration // how long Destroy takes

	// Faults.
	ProbeErr   error
	CreateErr  func(firerunner.MicroVMSpec) error // nil, or its nil, = no fault
	NeverHello bool                               // the guest never says a word
	DieAfter   time.Duration                      // the microVM ends by itself so long after Create; 0 = never

	Now func() time.Time // nil = time.Now
}

// Driver is a firerunner.Driver and a firerunner.Console without machines.
type Driver struct {
	cfg Config

	mu     sync.Mutex
	vms    map[string]*microVM
	guests sync.WaitGroup
}

var (
	_ firerunner.Driver  = (*Driver)(nil)
	_ firerunner.Console = (*Driver)(nil)
)

// microVM is one of them.
type microVM struct {
	firerunner.MicroVM
	reports *reportlog.Log
	orders  chan firerunner.GuestOrder
	end     context.CancelCauseFunc
	deaf    chan struct{} // closed once the guest has returned
	gone    chan struct{} // closed once the microVM has ended
}

// New returns a driver without microVMs.
func New(cfg Config) *Driver {
	if cfg.Name == "" {
		cfg.Name = "fake"
	}
	if cfg.HTTP == nil {
		cfg.HTTP = http.DefaultClient
	}
	if cfg.Poll <= 0 {
		cfg.Poll = 3 * time.Second
	}
	if cfg.Guest == nil {
		cfg.Guest = RunnerGuest(cfg.HTTP, cfg.Poll, cfg.JobTime)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Driver{cfg: cfg, vms: make(map[string]*microVM)}
}

// Name is "fake" unless configured.
func (d *Driver) Name() string { return d.cfg.Name }

// Probe returns the configured fault.
func (d *Driver) Probe(context.Context) error { return d.cfg.ProbeErr }

// Close ends every microVM and waits for its guest.
func (d *Driver) Close() error {
	d.mu.Lock()
	for _, vm := range d.vms {
		vm.end(errShutdown)
	}
	d.mu.Unlock()
	d.guests.Wait()
	return nil
}

// Why a microVM ends.
var (
	errDestroyed = errors.New("destroyed")
	errDeadline  = errors.New("ended at its deadline")
	errShutdown  = errors.New("ended with its driver")
	errDied      = errors.New("died, as configured")
	errKilled    = errors.New("killed")
)

var idForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// Create starts a guest. See firerunner.Driver.
func (d *Driver) Create(ctx context.Context, spec firerunner.MicroVMSpec) (firerunner.MicroVM, error) {
	now := d.cfg.Now()
	if !idForm.MatchString(spec.ID) || spec.Size.VCPUs < 1 || spec.Size.MemoryMiB < 1 || !spec.Deadline.After(now) {
		return firerunner.MicroVM{}, firerunner.Errorf(firerunner.Invalid,
			"fake: microVM %.80q cannot be made: it needs an id, a size and a deadline ahead", spec.ID)
	}
	if err := ctx.Err(); err != nil {
		return firerunner.MicroVM{}, firerunner.Errorf(firerunner.Unavailable, "fake: creating microVM %s: %w", spec.ID, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if vm, ok := d.vms[spec.ID]; ok {
		return vm.seen(), nil
	}
	if d.cfg.CreateErr != nil {
		if err := d.cfg.CreateErr(spec); err != nil {
			return firerunner.MicroVM{}, err
		}
	}
	living, end := context.WithCancelCause(context.Background())
	vm := &microVM{
		MicroVM: firerunner.MicroVM{ID: spec.ID, Host: spec.Host, CreatedAt: now, Deadline: spec.Deadline},
		reports: reportlog.New(reportlog.Config{Now: d.cfg.Now}),
		orders:  make(chan firerunner.GuestOrder), end: end,
		deaf: make(chan struct{}), gone: make(chan struct{}),
	}
	d.vms[spec.ID] = vm
	d.guests.Go(func() { d.live(living, vm, spec) })
	return vm.seen(), nil
}

// live is a microVM's whole life.
func (d *Driver) live(ctx context.Context, vm *microVM, spec firerunner.MicroVMSpec) {
	defer close(vm.gone)
	defer vm.end(nil)
	deadline := time.AfterFunc(spec.Deadline.Sub(vm.CreatedAt), func() { vm.end(errDeadline) })
	defer deadline.Stop()
	if d.cfg.DieAfter > 0 {
		death := time.AfterFunc(d.cfg.DieAfter, func() { vm.end(errDied) })
		defer death.Stop()
	}
	err := d.guest(ctx, vm, spec)
	close(vm.deaf)
	message, status := "the guest turned its machine off", 0
	switch cause := context.Cause(ctx); {
	case cause != nil:
		message, status = cause.Error(), -1
	case err != nil:
		message, status = err.Error(), 1
	}
	vm.reports.Driver(firerunner.GuestReport{Kind: firerunner.ReportExited, Message: message, ExitCode: status})
}

func (d *Driver) guest(ctx context.Context, vm *microVM, spec firerunner.MicroVMSpec) error {
	if d.cfg.BootTime > 0 {
		if err := sleep(ctx, d.cfg.BootTime); err != nil {
			return err
		}
	}
	if d.cfg.NeverHello {
		<-ctx.Done()
		return ctx.Err()
	}
	return d.cfg.Guest(ctx, spec, vm.reports.Guest, vm.orders)
}

// seen is the microVM as List tells it.
func (vm *microVM) seen() firerunner.MicroVM {
	m := vm.MicroVM
	_, exited := vm.reports.Said()
	m.Alive = !exited
	return m
}

// Destroy ends a guest and waits for it. See firerunner.Driver.
func (d *Driver) Destroy(ctx context.Context, id string) error {
	d.mu.Lock()
	vm, ok := d.vms[id]
	d.mu.Unlock()
	if !ok {
		return nil
	}
	if d.cfg.DestroyTime > 0 {
		if err := sleep(ctx, d.cfg.DestroyTime); err != nil {
			return firerunner.Errorf(firerunner.Unavailable, "fake: destroying microVM %s: %w", id, err)
		}
	}
	vm.end(errDestroyed)
	select {
	case <-vm.gone:
	case <-ctx.Done():
		return firerunner.Errorf(firerunner.Unavailable, "fake: destroying microVM %s: %w", id, ctx.Err())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.vms[id] == vm {
		delete(d.vms, id)
	}
	return nil
}

// Kill ends a microVM as a crash would, for tests.
func (d *Driver) Kill(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if vm, ok := d.vms[id]; ok {
		vm.end(errKilled)
	}
}

// List returns every microVM that was not destroyed. See firerunner.Driver.
func (d *Driver) List(context.Context) ([]firerunner.MicroVM, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	vms := make([]firerunner.MicroVM, 0, len(d.vms))
	for _, vm := range d.vms {
		vms = append(vms, vm.seen())
	}
	slices.SortFunc(vms, func(a, b firerunner.MicroVM) int { return strings.Compare(a.ID, b.ID) })
	return vms, nil
}

func (d *Driver) find(id string) (*microVM, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	vm, ok := d.vms[id]
	if !ok {
		return nil, firerunner.Errorf(firerunner.NotFound, "fake: there is no microVM %.80q", id)
	}
	return vm, nil
}

// Follow tells a guest's reports. See firerunner.Driver.
func (d *Driver) Follow(ctx context.Context, id string, after int64, report func(firerunner.GuestReport) error) error {
	vm, err := d.find(id)
	if err != nil {
		return err
	}
	return vm.reports.Follow(ctx, after, report)
}

// Order hands an order to a guest. See firerunner.Driver.
func (d *Driver) Order(ctx context.Context, id string, order firerunner.GuestOrder) error {
	if order != firerunner.OrderFinish && order != firerunner.OrderStop {
		return firerunner.Errorf(firerunner.Invalid, "fake: order %.20q is not one of finish, stop", string(order))
	}
	vm, err := d.find(id)
	if err != nil {
		return err
	}
	deaf := firerunner.Errorf(firerunner.Unavailable, "fake: the guest of microVM %s does not listen", id)
	if hello, exited := vm.reports.Said(); !hello || exited {
		return deaf
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	select {
	case vm.orders <- order:
		return nil
	case <-vm.deaf:
	case <-ctx.Done():
	}
	return deaf
}

// Console is empty: there is no machine to say anything. See firerunner.Console.
func (d *Driver) Console(_ context.Context, id string) (io.ReadCloser, error) {
	if _, err := d.find(id); err != nil {
		return nil, err
	}
	return io.NopCloser(strings.NewReader("")), nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
