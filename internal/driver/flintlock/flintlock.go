// Package flintlock is a driver whose microVMs are made by flintlockd on other machines, each a Firecracker with a
// guest that calls FireRunner over the network. One Driver has many hosts.
//
// flintlockd is an honest servant with a short memory. It lets two microVMs have one name, so creating is: write down
// that one is meant, look whether it is there, make it, write its uid down. It says CREATED as soon as a process was
// forked, so only the guest's word counts. It boots what has died again on its old disk, so a guest is let in once in
// its life, and what has ended is deleted at once. And it can be ended for good by a request that it accepts, so
// validate refuses those first.
//
// What must outlive the daemon is in a firerunner.Ledger. One rule makes crashes harmless: a microVM whose end is
// recorded there must not be on its host, and is deleted until it is not. docs/adr/0006 has the reasons.
package flintlock

import (
	"context"
	"errors"
	"reflect"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/firerunner/firerunner"
)

// Driver is a firerunner.Driver for hosts that run flintlockd, and the desk at which their guests call.
type Driver struct {
	cfg   Config
	vms   *registry
	loops sync.WaitGroup
	life  context.Context // ends with Close
	end   context.CancelFunc
	wake  chan struct{} // for the clock: there is something new to watch

	mu    sync.Mutex
	hosts map[string]*watched
	// orphans are microVMs of ours that a host has and the ledger does not, as List last saw them.
	orphans map[string]string
}

// watched is a host and the loop that looks at it.
type watched struct {
	*daemon
	stop context.CancelFunc
	done chan struct{}
}

var (
	_ firerunner.Driver     = (*Driver)(nil)
	_ firerunner.GuestDesk  = (*Driver)(nil)
	_ firerunner.HostProber = (*Driver)(nil)
	_ firerunner.Console    = (*Driver)(nil)
)

// New returns a driver that goes on with what the ledger has. From here on microVMs end at their deadlines. Nobody has
// to answer: a host that is not reached is tried when it is needed.
func New(ctx context.Context, cfg Config) (*Driver, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	rows, err := cfg.Ledger.VMs(ctx, cfg.Partition)
	if err != nil {
		return nil, firerunner.Errorf(firerunner.CodeOf(err), "flintlock: reading the ledger: %w", err)
	}
	d := &Driver{
		cfg: cfg, vms: newRegistry(), wake: make(chan struct{}, 1), hosts: map[string]*watched{}, orphans: map[string]string{},
	}
	d.life, d.end = context.WithCancel(context.Background())
	now := cfg.Now()
	for _, row := range rows {
		vm := newMicroVM(row, now)
		vm.aliveAt = now // its guest has a while to call again
		d.vms.add(vm)
	}
	if err := d.SetHosts(cfg.Hosts); err != nil {
		d.end()
		return nil, err
	}
	if !cfg.Beside {
		d.loops.Go(d.clock)
	}
	return d, nil
}

// Close ends the driver's loops and lets go of the guests: they call again. MicroVMs go on; another driver on the same
// ledger takes them up.
func (d *Driver) Close() error {
	d.end()
	for _, vm := range d.vms.all() {
		vm.letGo()
	}
	d.mu.Lock()
	hosts := d.hosts
	d.hosts = map[string]*watched{}
	d.mu.Unlock()
	var errs []error
	for _, h := range hosts {
		errs = append(errs, h.close())
	}
	d.loops.Wait()
	return errors.Join(errs...)
}

func (w *watched) close() error {
	w.stop()
	<-w.done
	return w.conn.Close()
}

// SetHosts replaces the hosts. Those that have not changed keep their connections. What runs on a host that is left out
// goes on, and is out of reach until the host is there again.
func (d *Driver) SetHosts(hosts []Host) error {
	if err := checkHosts(hosts); err != nil {
		return err
	}
	d.mu.Lock()
	var fresh []*daemon
	next := map[string]*watched{}
	for _, h := range hosts {
		if old, ok := d.hosts[h.Name]; ok && reflect.DeepEqual(old.Host, h) {
			next[h.Name] = old
			continue
		}
		host, err := newDaemon(h, d.cfg)
		if err != nil {
			d.mu.Unlock()
			for _, f := range fresh {
				_ = f.conn.Close()
			}
			return err
		}
		fresh = append(fresh, host)
	}
	var gone []*watched
	for name, old := range d.hosts {
		if next[name] != old {
			gone = append(gone, old)
		}
	}
	for _, host := range fresh {
		w := &watched{daemon: host, done: make(chan struct{})}
		var living context.Context
		living, w.stop = context.WithCancel(d.life)
		next[host.Name] = w
		if d.cfg.Beside {
			close(w.done)
			continue
		}
		go func() {
			defer close(w.done)
			d.watch(living, w.daemon)
		}()
	}
	d.hosts = next
	d.mu.Unlock()
	var errs []error
	for _, w := range gone {
		errs = append(errs, w.close())
	}
	return errors.Join(errs...)
}

// Knows reports whether a microVM is in this driver's part of the ledger.
func (d *Driver) Knows(id string) bool {
	_, ok := d.vms.get(id)
	return ok
}

// host returns a host by its name.
func (d *Driver) host(name string) (*daemon, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w, ok := d.hosts[name]; ok {
		return w.daemon, nil
	}
	return nil, firerunner.Errorf(firerunner.Unavailable, "flintlock: there is no host %.80q in the configuration", name).
		WithHint("add it to hosts; what runs there is out of reach until then")
}

// everyHost does something with each host at once and waits.
func (d *Driver) everyHost(do func(h *daemon)) {
	d.mu.Lock()
	var all errgroup.Group
	all.SetLimit(32)
	hosts := make([]*daemon, 0, len(d.hosts))
	for _, w := range d.hosts {
		hosts = append(hosts, w.daemon)
	}
	d.mu.Unlock()
	for _, h := range hosts {
		all.Go(func() error { do(h); return nil })
	}
	_ = all.Wait()
}

// Name is "flintlock" unless configured.
func (d *Driver) Name() string { return d.cfg.Name }

// Probe asks every host for a sign of life; one that answers is enough. See firerunner.Driver.
func (d *Driver) Probe(ctx context.Context) error {
	var mu sync.Mutex
	var errs []error
	good := 0
	d.everyHost(func(h *daemon) {
		err := h.probe(ctx)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			good++
		} else {
			errs = append(errs, err)
		}
	})
	switch {
	case good > 0:
		return nil
	case len(errs) == 0:
		return firerunner.Errorf(firerunner.Unavailable, "flintlock: there are no hosts").WithHint("add at least one to hosts")
	}
	return firerunner.Errorf(firerunner.CodeOf(errs[0]), "flintlock: no host can be used: %w", errors.Join(errs...)).
		WithHint("%s", firerunner.HintOf(errs[0]))
}

// ProbeHost asks one host for a sign of life. See firerunner.HostProber. While its circuit breaker is open it says so
// and asks nothing.
func (d *Driver) ProbeHost(ctx context.Context, host string) error {
	h, err := d.host(host)
	if err != nil {
		return err
	}
	return h.probe(ctx)
}
