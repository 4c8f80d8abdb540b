package sim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/firerunner/firerunner"
)

// fleet is every host and every microVM that exists, whoever knows of them.
type fleet struct {
	w     *world
	hosts map[string]*host
	vms   map[string]*microVM
	all   []*microVM // also those that are gone
}

// host is a machine.
type host struct {
	firerunner.Host
	silent  bool   // it answers nobody; what runs there runs on
	trouble string // it answers and makes nothing
	silence []span // every time that it was silent
	missed  []span // every time in which many probes in a row found no answer, each by chance
	asked   span   // since the last one that did
	misses  int
}

// span is a time in which something was the case; until is zero while it is.
type span struct{ from, until time.Time }

func (s span) overlaps(from, until time.Time) bool {
	return s.from.Before(until) && (s.until.IsZero() || s.until.After(from))
}

func (f *fleet) names() []string { return slices.Sorted(maps.Keys(f.hosts)) }

func (f *fleet) here() []*microVM {
	vms := make([]*microVM, 0, len(f.vms))
	for _, id := range slices.Sorted(maps.Keys(f.vms)) {
		vms = append(vms, f.vms[id])
	}
	return vms
}

// create makes a microVM; the same one again for an ID that exists. now is the clock of who makes it.
func (f *fleet) create(spec firerunner.MicroVMSpec, owner string, now time.Time) (firerunner.MicroVM, error) {
	h := f.hosts[spec.Host]
	switch {
	case h == nil:
		return firerunner.MicroVM{}, firerunner.Errorf(firerunner.NotFound, "there is no host %q", spec.Host)
	case f.vms[spec.ID] != nil:
		return f.vms[spec.ID].seen(), nil
	case h.trouble != "":
		return firerunner.MicroVM{}, firerunner.Errorf(firerunner.Exhausted, "host %s: %s", h.Name, h.trouble)
	}
	vm := &microVM{
		w: f.w, spec: spec, owner: owner, madeAt: time.Now(), alive: true, changed: make(chan struct{}),
		harm: map[string]bool{}, life: f.w.drawLife(), late: f.w.plan.remote && f.w.removing(spec.ID),
	}
	if f.w.o.tamper.life != nil {
		f.w.o.tamper.life(f.w, spec.ID, &vm.life)
	}
	f.vms[spec.ID] = vm
	f.all = append(f.all, vm)
	f.w.say("microVM made", "runner", spec.ID, "host", spec.Host, "size", spec.Size.String())
	f.w.trace("create", spec.ID, spec.Host)
	f.w.checkHosts()
	vm.begin(now)
	return vm.seen(), nil
}

// destroy removes a microVM and all that it had.
func (f *fleet) destroy(id string) {
	vm := f.vms[id]
	if vm == nil {
		return
	}
	f.w.checkKill(vm)
	f.w.say("microVM destroyed", "runner", id, "job", vm.job)
	f.w.trace("destroy", id, "")
	vm.alive, vm.destroyed = false, true
	delete(f.vms, id)
	vm.wake()
}

// lose is a power cut: what was on the host is off, and its disks are there still.
func (f *fleet) lose(name string) {
	for _, vm := range f.here() {
		if vm.spec.Host == name && vm.alive {
			vm.harm["its host lost its power"] = true
			vm.exit("power cut")
		}
	}
}

func (f *fleet) silence(name string, is bool) {
	h := f.hosts[name]
	if h.silent == is {
		return
	}
	h.silent = is
	if is {
		h.silence = append(h.silence, span{from: time.Now()})
	} else {
		h.silence[len(h.silence)-1].until = time.Now()
	}
	f.w.say("host", "host", name, "silent", is)
	for _, vm := range f.here() {
		if vm.spec.Host == name {
			vm.wake()
		}
	}
}

func (f *fleet) isSilent(vmID string) bool {
	vm := f.vms[vmID]
	return vm != nil && f.hosts[vm.spec.Host].silent
}

// localDriver is the fleet as a daemon reaches it on its own machine.
type localDriver struct {
	d     *daemon
	f     *fleet
	owner string // whose microVMs it has
}

// remoteDriver is the fleet as a daemon reaches it over a network: hosts can be asked for a sign of life.
type remoteDriver struct{ localDriver }

var (
	_ firerunner.Driver     = localDriver{}
	_ firerunner.HostProber = remoteDriver{}
)

// Name implements firerunner.Driver.
func (localDriver) Name() string { return "sim" }

// Probe implements firerunner.Driver.
func (localDriver) Probe(context.Context) error { return nil }

// Create implements firerunner.Driver.
func (l localDriver) Create(ctx context.Context, spec firerunner.MicroVMSpec) (firerunner.MicroVM, error) {
	l.check("create", spec.ID)
	l.checkWanted(spec.ID)
	return remote(ctx, l.d, "driver.create "+spec.ID, func() trip { return l.d.w.tampered("create", spec.ID, l.d.w.createTrip(spec.Host)) }, func() (firerunner.MicroVM, error) {
		return l.f.create(spec, l.owner, l.d.hostNow())
	})
}

// Destroy implements firerunner.Driver.
func (l localDriver) Destroy(ctx context.Context, id string) error {
	l.check("destroy", id)
	return remoteErr(ctx, l.d, "driver.destroy "+id, func() trip { return l.d.w.tampered("destroy", id, l.d.w.destroyTrip(l.f.isSilent(id))) }, func() error {
		l.f.destroy(id)
		return nil
	})
}

// List implements firerunner.Driver. A driver may remember what hosts have that do not answer, or leave it out.
func (l localDriver) List(ctx context.Context) ([]firerunner.MicroVM, error) {
	var silent error
	vms, err := remote(ctx, l.d, "driver.list", func() trip { return l.d.w.listTrip() }, func() (vms []firerunner.MicroVM, _ error) {
		for _, vm := range l.f.here() {
			if vm.owner != l.owner {
				continue
			}
			if l.f.hosts[vm.spec.Host].silent && !l.d.w.plan.listsSilent {
				continue
			}
			vms = append(vms, vm.seen())
		}
		for _, name := range l.f.names() {
			if l.f.hosts[name].silent && !l.d.w.plan.listsSilent {
				silent = firerunner.Errorf(firerunner.Unavailable, "host %s does not answer", name)
			}
		}
		return vms, nil
	})
	if err == nil {
		err = silent
	}
	return vms, err
}

// Order implements firerunner.Driver.
func (l localDriver) Order(ctx context.Context, id string, order firerunner.GuestOrder) error {
	return remoteErr(ctx, l.d, fmt.Sprint("driver.order ", id, order), func() trip { return l.d.w.driverTrip(l.f.isSilent(id)) }, func() error {
		vm := l.f.vms[id]
		switch {
		case vm == nil:
			return firerunner.Errorf(firerunner.NotFound, "there is no microVM %s", id)
		case !vm.alive || !vm.hello:
			return firerunner.Errorf(firerunner.Unavailable, "the guest of %s does not listen", id)
		}
		vm.order(order)
		return nil
	})
}

// Follow implements firerunner.Driver. Now and then the line breaks, and now and then it tells something twice.
func (l localDriver) Follow(ctx context.Context, id string, after int64, report func(firerunner.GuestReport) error) error {
	for {
		if err := l.d.turn(ctx, "driver.follow "+id, false); err != nil {
			return err
		}
		vm := l.f.vms[id]
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case vm != nil && l.f.hosts[vm.spec.Host].silent, l.d.w.happens(l.d.w.faults.lineBreaks):
			return firerunner.Errorf(firerunner.Unavailable, "following %s: the line broke", id)
		case vm == nil:
			return firerunner.Errorf(firerunner.NotFound, "there is no microVM %s", id)
		}
		changed := vm.changed
		told := slices.Clone(vm.reports[min(int(after), len(vm.reports)):])
		if len(told) > 0 && after > 0 && l.d.w.happens(l.d.w.faults.reportTwice) {
			told = append([]firerunner.GuestReport{vm.reports[after-1]}, told...)
		}
		for _, r := range told {
			if err := report(r); err != nil {
				return err
			}
			if r.Kind == firerunner.ReportExited {
				return nil
			}
			after = max(after, r.Seq)
		}
		if len(told) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
		case <-l.d.died:
			return errDead
		}
	}
}

// ProbeHost implements firerunner.HostProber.
func (r remoteDriver) ProbeHost(ctx context.Context, name string) error {
	return remoteErr(ctx, r.d, "driver.probe "+name, func() trip { return r.f.probed(name) }, func() error {
		h := r.f.hosts[name]
		switch {
		case h == nil:
			return firerunner.Errorf(firerunner.NotFound, "there is no host %s", name)
		case h.trouble != "":
			return firerunner.Errorf(firerunner.Exhausted, "host %s: %s", name, h.trouble)
		}
		return nil
	})
}

// missedMost is how many probes may miss in a row until a host may count as silent.
const missedMost = 4

// probed is one probe of a host. Slow ones miss too: who asks has patience for some seconds.
func (f *fleet) probed(name string) trip {
	h := f.hosts[name]
	t := f.w.driverTrip(h != nil && h.silent)
	if h == nil {
		return t
	}
	if t.refuse == nil && !t.noEffect && t.there+t.back < 4*time.Second {
		h.misses = 0
		return t
	}
	if h.misses++; h.misses == 1 {
		h.asked.from = time.Now()
	}
	if h.misses > missedMost {
		h.missed = append(h.missed, span{h.asked.from, time.Now().Add(time.Minute)})
	}
	return t
}
