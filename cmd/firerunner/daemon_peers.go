package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/control"
	"github.com/firerunner/firerunner/internal/driver/flintlock"
	"github.com/firerunner/firerunner/internal/guest"
	"github.com/firerunner/firerunner/internal/peers"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

// letGoPatience is how long steps for another controller may take to end when it is given back.
const letGoPatience = 20 * time.Second

// openPeers makes this process one of the site's controllers, where there may be several. It waits until its lease is its
// own: a controller that was taken for dead gets its runners back first.
func (d *daemon) openPeers(ctx context.Context) error {
	if d.cfg.SQLitePath() != "" {
		return nil // one process alone serves a file
	}
	holder, release, err := holderOf(d.cfg.StateDir)
	if err != nil {
		return err
	}
	d.onClose(release)
	self := firerunner.Controller{
		Name: d.cfg.Controller.Name, Driver: d.cfg.Driver, Machine: machineName(), Version: buildVersion(), StartedAt: time.Now(),
	}
	if d.cfg.Driver == config.DriverFlintlock {
		certificate, err := guest.LoadCertificate(filepath.Join(d.cfg.StateDir, "guest"))
		if err != nil {
			return err
		}
		self.Endpoint, self.Fingerprint = d.cfg.Guest.Endpoint(), guest.Fingerprint(certificate)
	}
	d.keeper, err = peers.Join(ctx, peers.Config{
		Leases: d.store, Registry: d.store, Self: self, Holder: holder, TTL: d.cfg.Controller.LeaseTime, Logger: d.log,
		Bearers: d.bearers, Left: d.left, Bury: d.bury,
		CanStandIn: func(c firerunner.Controller) bool {
			return d.cfg.Driver == config.DriverFlintlock && (c.Driver == d.cfg.Driver || c.Driver == "") // unregistered: its name says all
		},
		StandIn: d.standIn, GiveBack: d.giveBack,
		Lost: func(err error) { d.failed <- err }, Observe: d.metrics.LeaseRenewal,
	})
	if err != nil {
		return err
	}
	d.metrics.Controller(d.keeper.Leads, d.keeper.StandsInFor)
	d.onClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), letGoPatience)
		defer cancel()
		left, err := d.left(ctx, self.Name)
		d.logError("giving the lease up", d.keeper.Leave(ctx, err == nil && !left))
	})
	return nil
}

// controllerMark is the file in the state folder that has the mark of the controller that uses it.
const controllerMark = "controller"

// holderOf is this process's mark: that of the state folder, which one process at a time has.
func holderOf(stateDir string) (holder string, release func(), err error) {
	path := filepath.Join(stateDir, controllerMark)
	if release, err = sqlite.Hold(path); err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	text, err := os.ReadFile(path)
	if err != nil {
		return "", nil, firerunner.Errorf(firerunner.Unavailable, "reading this controller's mark: %w", err)
	}
	if holder = strings.TrimSpace(string(text)); holder != "" {
		return holder, release, nil
	}
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", nil, firerunner.Errorf(firerunner.Internal, "reading random bytes: %w", err)
	}
	holder = machineName() + "/" + hex.EncodeToString(b[:])
	if err := os.WriteFile(path, []byte(holder+"\n"), 0o600); err != nil {
		return "", nil, firerunner.Errorf(firerunner.Unavailable, "writing this controller's mark: %w", err)
	}
	return holder, release, nil
}

func machineName() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}

func (d *daemon) controllerName() string { return controllerNameOf(d.cfg.Config) }

// peersOf is what a Control that acts for a controller knows of the others.
func (d *daemon) peersOf(controller string) control.Peers {
	if d.keeper == nil {
		return control.Peers{}
	}
	return control.Peers{
		Under: func(ctx context.Context, tx firerunner.Tx) error {
			err := d.keeper.Under(ctx, tx, controller)
			if firerunner.CodeOf(err) == firerunner.Conflict {
				d.metrics.LateWrite()
			}
			return err
		},
		Holds: func() bool { return d.keeper.Holds(controller) },
		Leads: d.keeper.Leads, Away: d.keeper.Away,
		On: func(ctx context.Context, host string) ([]string, error) { return d.othersOn(ctx, controller, host) },
	}
}

// now is the time of the whole site: the database's, where several controllers must agree on it.
func (d *daemon) now() time.Time {
	if d.keeper == nil {
		return time.Now()
	}
	return d.keeper.Now()
}

// hostNow is the clock of those who end a microVM at its deadline: the shims of this machine, or we.
func (d *daemon) hostNow() func() time.Time {
	if d.fleet == nil {
		return time.Now
	}
	return d.now
}

// leaseHeld fails unless our own lease is surely ours: without it nothing that we write is taken.
func (d *daemon) leaseHeld(context.Context) error {
	if !d.keeper.Holds(d.controllerName()) {
		return firerunner.Errorf(firerunner.Unavailable, "the lease of controller %q is not surely ours", d.controllerName())
	}
	return nil
}

// othersOn are the microVMs that other controllers than one have on a host, by their parts of the ledger.
func (d *daemon) othersOn(ctx context.Context, controller, host string) ([]string, error) {
	known, err := d.store.Controllers(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, c := range known {
		if c.Name == controller {
			continue
		}
		vms, err := d.store.VMs(ctx, partitionOf(d.cfg.Config, c.Name))
		if err != nil {
			return nil, err
		}
		for _, vm := range vms {
			if vm.Host == host {
				ids = append(ids, vm.ID)
			}
		}
	}
	return ids, nil
}

// bearers are the controllers whose names live runners bear.
func (d *daemon) bearers(ctx context.Context) ([]string, error) {
	live, err := d.store.Runners(ctx, firerunner.RunnerQuery{Live: true})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range live {
		if r.State >= firerunner.Placed && !slices.Contains(names, r.Controller) {
			names = append(names, r.Controller)
		}
	}
	return names, nil
}

// left reports whether anything is left of a controller: live runners, or microVMs in its part of the ledger.
func (d *daemon) left(ctx context.Context, controller string) (bool, error) {
	names, err := d.bearers(ctx)
	if err != nil || slices.Contains(names, controller) {
		return true, err
	}
	vms, err := d.store.VMs(ctx, partitionOf(d.cfg.Config, controller))
	return len(vms) > 0, err
}

// bury takes up what a controller was doing for the whole site. Its machine's microVMs are nobody's but its own.
func (d *daemon) bury(ctx context.Context, controller string) error {
	return d.queue.TakeBack(ctx, controller)
}

// controllerNameOf is our name in rows: on SQLite there is one controller, and it has none.
func controllerNameOf(cfg *config.Config) string {
	if cfg.SQLitePath() != "" {
		return ""
	}
	return cfg.Controller.Name
}

// partitionOf is a controller's part of the ledger, and namespaceOf its microVMs on hosts. They are apart, so that no
// controller sees those of another as left behind.
func partitionOf(cfg *config.Config, controller string) string {
	return partitionOfDriver(cfg.Driver, controller)
}

func partitionOfDriver(driver, controller string) string {
	if controller == "" {
		return driver
	}
	return driver + "@" + controller
}

func namespaceOf(installation, controller string) string {
	if controller == "" {
		return "fr-" + installation
	}
	return "fr-" + installation + "-" + controller
}

// standIn is all that acts for a controller that is away.
type standIn struct {
	control *control.Control
	driver  *flintlock.Driver
	life    context.Context // ends when it is given back
	end     context.CancelFunc
}

// standIns are those of this process, by name.
type standIns struct {
	mu  sync.Mutex
	all map[string]*standIn
}

func (s *standIns) get(name string) *standIn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[name]
}

func (s *standIns) each() []*standIn {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*standIn, 0, len(s.all))
	for _, in := range s.all {
		all = append(all, in)
	}
	return all
}

// standIn begins to act for a controller exactly as its next process would: from its rows and its part of the ledger.
func (d *daemon) standIn(ctx context.Context, name string) error {
	driver, err := d.fleetDriver(ctx, name)
	if err != nil {
		return err
	}
	in := &standIn{driver: driver}
	in.life, in.end = context.WithCancel(context.Background())
	in.control, err = d.newControl(driver, name)
	if err != nil {
		in.end()
		return errors.Join(err, driver.Close())
	}
	d.standing.mu.Lock()
	d.standing.all[name] = in
	d.standing.mu.Unlock()
	d.desks.add(name, driver)
	if err := in.control.Start(ctx); err != nil {
		return err // the keeper gives back what was begun
	}
	return d.queue.Serve(ctx, name)
}

// giveBack ends that. Nothing of the controller's microVMs is touched; their guests call its own process again.
func (d *daemon) giveBack(ctx context.Context, name string) error {
	in := d.standing.get(name)
	if in == nil {
		return nil
	}
	d.desks.remove(name)
	in.end()
	ctx, cancel := context.WithTimeout(ctx, letGoPatience)
	defer cancel()
	if err := d.queue.Leave(ctx, name); err != nil {
		return err
	}
	in.control.Close()
	err := in.driver.Close()
	d.standing.mu.Lock()
	delete(d.standing.all, name)
	d.standing.mu.Unlock()
	if err != nil {
		d.log.Warn("could not end cleanly", "doing", "closing the driver of controller "+name, "error", err)
	}
	return nil
}

// steps gives each step to who acts for the controller that it names.
func (d *daemon) steps() map[firerunner.StepKind]firerunner.StepFunc {
	steps := d.control.Steps()
	own := steps[firerunner.StepAdvance]
	steps[firerunner.StepAdvance] = func(ctx context.Context, s firerunner.Step) error {
		if s.Controller == d.controllerName() || s.Controller == "" {
			return own(ctx, s)
		}
		in := d.standing.get(s.Controller)
		if in == nil {
			return firerunner.Later(time.Second, fmt.Sprintf("nobody acts for controller %q here", s.Controller))
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(in.life, cancel)()
		return in.control.Steps()[firerunner.StepAdvance](ctx, s)
	}
	return steps
}

// handOver reports whether the others can go on with what is ours: then the end of this process ends no job, and waits for
// none.
func (d *daemon) handOver() bool {
	return d.keeper != nil && d.fleet != nil && slices.ContainsFunc(d.keeper.Others(), d.keeper.CanStandIn)
}
