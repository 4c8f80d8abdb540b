package sim

import (
	"context"
	"slices"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/peers"
)

// What must hold where several controllers share a database.

// has reports whether a process has the lease of a controller now, by the database's clock.
func (d *daemon) has(controller string) bool {
	l, holder := d.w.store.shared.leases[firerunner.LeaseOf(controller)], "holder "+d.name
	if controller != d.name {
		holder = peers.StandIn(holder)
	}
	return l.Holder == holder && l.Until.After(time.Now())
}

// leads reports whether a process has the site's lease now: who leads gives up the runners of those that are away.
func (d *daemon) leads() bool {
	l := d.w.store.shared.leases[firerunner.SiteLease]
	return l.Holder == "holder "+d.name && l.Until.After(time.Now())
}

// checkMover looks at who moves a runner: only who acts for its controller may. That a job has begun is written by whoever
// hears of it from GitLab, under its own lease.
func (w *world) checkMover(e firerunner.Event) {
	if !w.shared() || w.writes == nil || e.From < firerunner.Placed {
		return
	}
	name := w.store.rows.runners[e.RunnerID].Controller
	d := w.writes
	if e.To == firerunner.Running && d.has(d.name) {
		return
	}
	if !d.has(name) && !(w.awayFrom(name) && d.leads()) {
		w.problem("runner %s of controller %s is moved to %s by %s, which has no lease for it", e.RunnerID, name, e.To, d.name)
	}
}

// awayFrom reports whether nobody has a controller's lease.
func (w *world) awayFrom(controller string) bool {
	return !w.store.shared.leases[firerunner.LeaseOf(controller)].Until.After(time.Now())
}

// check looks at a call that changes something: one who has lost its lease unawares may make one such call for a runner.
func (l localDriver) check(what, id string) {
	if d := l.d; d.w.shared() && !d.dead.Load() && !d.has(l.owner) {
		if d.late[id]++; d.late[id] > 1 {
			d.w.problem("%s: %s calls %s for runner %s again, and has no lease of controller %s", d.mark(), d.name, what, id, l.owner)
		}
	}
}

// strandedMost is how long a runner may be without anybody who acts for its controller, in a calm world of hosts that all
// controllers reach.
const strandedMost = 30 * time.Second

// hindered reports whether something that was begun still keeps a controller from its leases.
func (w *world) hindered() bool {
	return len(w.held) > 0 || slices.ContainsFunc(w.seats, func(s *seat) bool { return s.cutOff > 0 || s.slow > 0 })
}

// checkPeers looks, each second, at who believes what.
func (w *world) checkPeers() {
	leaders := 0
	for _, s := range w.seats {
		if d := s.daemon; d != nil && !d.dead.Load() && d.keeper != nil && d.keeper.Leads() {
			leaders++
		}
		acting := 0
		for _, o := range w.seats {
			if d := o.daemon; d != nil && !d.dead.Load() && d.keeper != nil && d.keeper.Holds(s.name) {
				acting++
			}
		}
		if acting > 1 {
			w.problem("%d processes believe that they have the lease of controller %s", acting, s.name)
		}
	}
	if leaders > 1 {
		w.problem("%d controllers lead the site", leaders)
	}
	if !w.calm || !w.plan.remote {
		return
	}
	live, _ := w.store.Runners(context.Background(), firerunner.RunnerQuery{Live: true})
	for _, s := range w.seats {
		bears := false
		for _, r := range live {
			bears = bears || r.State >= firerunner.Placed && r.Controller == s.name
		}
		switch {
		case !bears || !w.awayFrom(s.name) || !w.anyWorks() || w.storeAway() || w.hindered():
			delete(w.stranded, s.name)
		case w.stranded[s.name].IsZero():
			w.stranded[s.name] = time.Now()
		case time.Since(w.stranded[s.name]) > strandedMost:
			w.problem("nobody acts for controller %s, whose runners are live", s.name)
			w.stranded[s.name] = time.Now()
		}
	}
}
