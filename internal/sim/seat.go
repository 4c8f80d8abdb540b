package sim

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/control"
)

// seat is one controller of the site: its machine, with a clock of its own, on which one process follows another.
type seat struct {
	name     string // empty: that of a site's only one
	begins   time.Duration
	daemon   *daemon      // the process that is there, or was there last; nil: none yet
	clockOff atomic.Int64 // of the machine's clock
	cutOff   int          // from the database alone
	slow     int          // what is said to the database about leases takes long
	gone     bool         // its machine never comes back
}

// seats are the controllers of a plan.
func (p plan) seats() []*seat {
	if len(p.controllers) == 0 {
		return []*seat{{}}
	}
	seats := make([]*seat, 0, len(p.controllers))
	for _, c := range p.controllers {
		s := &seat{name: c.name, begins: c.begins}
		s.clockOff.Store(int64(c.skew))
		seats = append(seats, s)
	}
	return seats
}

// shared reports whether several controllers serve the site.
func (w *world) shared() bool { return len(w.plan.controllers) > 0 }

func (d *daemon) mark() string { return fmt.Sprintf("daemon %d", d.number) }

func (d *daemon) now() time.Time { return time.Now().Add(time.Duration(d.clockOff.Load())) }

// siteNow is the time of the whole site: by the database's clock, once it has been asked.
func (d *daemon) siteNow() time.Time {
	if d.keeper == nil {
		return d.now()
	}
	return d.keeper.Now()
}

// hostNow is the clock of those who end a microVM at its deadline: the shims of a machine, or whoever acts for its
// controller.
func (d *daemon) hostNow() time.Time {
	if d.w.shared() && d.w.plan.remote {
		return d.siteNow()
	}
	return d.now()
}

// configured are the hosts in a controller's configuration: those of the network, or its own machine.
func (d *daemon) configured() []firerunner.Host {
	if d.w.plan.remote || !d.w.shared() {
		return slices.Clone(d.w.plan.hosts)
	}
	i := slices.Index(d.w.seats, d.seat)
	return slices.Clone(d.w.plan.hosts[i : i+1])
}

// driver has the microVMs of a controller: our own, or those of one for which we stand in.
func (d *daemon) driver(controller string) firerunner.Driver {
	local := localDriver{d, d.w.fleet, controller}
	if d.w.plan.remote {
		return remoteDriver{local}
	}
	return local
}

// newControl makes what moves the runners of a controller.
func (d *daemon) newControl(controller string) (*control.Control, error) {
	w := d.w
	c := control.Config{
		Store: daemonStore{d, w.store}, GitLab: remoteGitLab{d, w.gitlab}, Driver: d.driver(controller),
		Image:        func(context.Context, string) (firerunner.Image, error) { return image(), nil },
		Installation: installation, Profiles: profiles(), Deadlines: w.plan.deadlines, GuestURL: "http://gitlab",
		SweepProjects: w.plan.projects, HoldAfter: w.plan.holdAfter, QueueSize: w.plan.queueSize,
		Now: d.now, NewID: w.newID, Logger: w.logger(d), SealKeys: sealKeys(),
	}
	if w.shared() {
		c.Now, c.HostNow = d.siteNow, d.hostNow
		c.Controller, c.StandsIn = controller, controller != d.name
		c.Peers = control.Peers{
			Under: func(ctx context.Context, tx firerunner.Tx) error { return d.keeper.Under(ctx, tx, controller) },
			Holds: func() bool { return d.keeper.Holds(controller) },
			Leads: func() bool { return d.keeper.Leads() },
			Away:  func(name string) bool { return d.keeper.Away(name) },
			On: func(ctx context.Context, host string) (ids []string, _ error) {
				if err := (daemonStore{d, w.store}).turn(ctx, "ledger of the others on "+host, false); err != nil {
					return nil, err
				}
				for _, vm := range w.fleet.here() {
					if vm.spec.Host == host && vm.owner != controller {
						ids = append(ids, vm.spec.ID)
					}
				}
				return ids, nil
			},
		}
	}
	return control.New(c)
}

// doorkeeper is who gets the next webhook: any of those who are there.
func (w *world) doorkeeper() *daemon {
	if !w.shared() {
		return w.seats[0].daemon
	}
	var open []*daemon
	for _, s := range w.seats {
		if s.daemon != nil && s.daemon.intake != nil {
			open = append(open, s.daemon)
		}
	}
	if len(open) == 0 {
		return nil
	}
	return pick(w.scheduler, open...)
}

func (w *world) anyWorks() bool {
	return slices.ContainsFunc(w.seats, func(s *seat) bool { return s.daemon != nil && s.daemon.works })
}

// allServe reports whether every process is there that ever will be.
func (w *world) allServe() bool {
	return !slices.ContainsFunc(w.seats, func(s *seat) bool { return !s.gone && (s.daemon == nil || s.daemon.intake == nil) })
}

// happenTo is what happens to one controller.
func (w *world) happenTo(s *seat, m moment) {
	d := s.daemon
	if d == nil || d.dead.Load() {
		return
	}
	switch m.what {
	case "suspend":
		w.held[d.mark()] = true
		w.downs = append(w.downs, span{from: time.Now(), until: time.Now().Add(m.lasts)})
		w.after(m.lasts, func() { delete(w.held, d.mark()) })
	case "cut off":
		s.cutOff++
		w.after(m.lasts, func() { s.cutOff-- })
	case "slow leases":
		s.slow++
		w.after(m.lasts, func() { s.slow-- })
	case "kill":
		d.crash("kill -9")
	case "gone":
		others := slices.ContainsFunc(w.seats, func(o *seat) bool { return o != s && !o.gone })
		if others && w.plan.remote {
			s.gone = true
			d.crash("for good")
		}
	case "roll":
		for i, one := range w.seats {
			w.after(time.Duration(i)*m.lasts, func() { w.terminate(one) })
		}
	}
}
