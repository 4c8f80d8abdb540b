package sim

import (
	"net/netip"
	"time"

	"github.com/firerunner/firerunner"
)

// What becomes of one call, one microVM, one webhook: drawn when it happens, from the chances that are in force.

func (w *world) gitlabAway() bool { return w.awayGitLab > 0 }
func (w *world) storeAway() bool  { return w.awayStore > 0 }

// gitlabTrip is one request to GitLab. unclear says that a request whose answer is lost is worse than one that fails.
func (w *world) gitlabTrip(unclear bool) (t trip) {
	t = trip{there: w.between(time.Millisecond, 100*time.Millisecond), back: w.between(time.Millisecond, 100*time.Millisecond)}
	bad := firerunner.Errorf(firerunner.Unavailable, "gitlab: 502 Bad Gateway")
	defer func() { w.roughTrip(t) }()
	if w.happens(w.faults.gitlabSlow) {
		t.there = w.between(time.Second, 45*time.Second)
	}
	switch f := w.faults; {
	case w.gitlabAway():
		if w.happens(0.3) {
			t.noEffect = true
		} else {
			t.refuse = bad
		}
	case w.happens(f.gitlabFails):
		t.refuse = bad
	case w.happens(f.gitlabLimits):
		t.refuse = firerunner.Errorf(firerunner.Exhausted, "gitlab: 429: %w", limited{w.between(time.Second, 20*time.Second)})
	case unclear && w.happens(f.gitlabUnclear):
		if w.happens(0.5) {
			t.noAnswer = bad
		} else {
			t.silent = true
		}
	}
	return t
}

func (w *world) createTrip(name string) trip {
	t := w.driverTrip(w.fleet.hosts[name] != nil && w.fleet.hosts[name].silent)
	t.back += w.between(20*time.Millisecond, time.Second)
	switch f := w.faults; {
	case t.refuse != nil || t.noEffect:
	case w.happens(f.createFails):
		t.refuse = firerunner.Errorf(pick(w.scheduler, firerunner.Exhausted, firerunner.Internal, firerunner.Unavailable), "no room for an overlay")
	case w.happens(f.createUnclear):
		if w.happens(0.5) {
			t.noAnswer = firerunner.Errorf(firerunner.Unavailable, "the host did not say whether it made it")
		} else {
			t.silent = true
		}
	}
	return t
}

func (w *world) destroyTrip(silent bool) trip {
	t := w.driverTrip(silent)
	if t.refuse == nil && !t.noEffect && w.happens(w.faults.destroyFails) {
		t.refuse = firerunner.Errorf(firerunner.Unavailable, "its disk is busy")
	}
	return t
}

func (w *world) tampered(what, id string, t trip) trip {
	if w.o.tamper.trip == nil {
		return t
	}
	return w.o.tamper.trip(w, what, id, t)
}

// driverTrip is one call to a driver; one that is for a silent host is not answered.
func (w *world) driverTrip(silent bool) (t trip) {
	defer func() { w.roughTrip(t) }()
	t = trip{
		there: w.between(100*time.Microsecond, 10*time.Millisecond), back: w.between(100*time.Microsecond, 10*time.Millisecond),
		inside: !w.plan.remote,
	}
	if w.happens(w.faults.driverSlow) {
		t.there = w.between(time.Second, 30*time.Second)
	}
	switch {
	case silent && w.happens(0.5):
		t.refuse = firerunner.Errorf(firerunner.Unavailable, "no route to host")
	case silent:
		t.noEffect = true
	case w.happens(w.faults.driverFails):
		t.refuse = firerunner.Errorf(firerunner.Unavailable, "the driver did not answer")
	}
	return t
}

// listTrip is a question to all hosts: some answer always.
func (w *world) listTrip() trip {
	t := w.driverTrip(false)
	if w.plan.remote {
		t.refuse = nil
	}
	return t
}

func (w *world) drawLife() life {
	l := life{boot: w.between(500*time.Millisecond, 8*time.Second), graceful: w.happens(0.5), old: w.happens(0.1)}
	if !w.happens(w.faults.guest) {
		return l
	}
	switch w.chance.IntN(7) {
	case 0:
		l.never = true
	case 1:
		l.diesIn = w.between(time.Millisecond, 3*time.Minute)
	case 2:
		l.muteIn = w.between(time.Millisecond, 3*time.Minute)
	case 3:
		l.lies = pick(w.scheduler, "claims a job", "claims a job", "claims no job of anybody", "claims nonsense", "says done before it began",
			"says words that nobody knows", "says hello twice", "cannot work")
	case 4:
		l.losesOne = w.chance.Float64() * 0.5
	case 5:
		l.leaves = true
	case 6:
		l.boot = w.between(10*time.Second, 2*time.Minute)
	}
	return l
}

func (w *world) drawDowntime() time.Duration {
	if w.calm {
		return time.Second
	}
	if w.happens(0.1) {
		return w.between(time.Minute, 8*time.Minute)
	}
	return w.between(10*time.Millisecond, 20*time.Second)
}

// planCrash draws after how many acts the daemon dies next.
func (w *world) planCrash() {
	w.crashIn = 0
	if !w.calm && w.plan.crashes > w.crashes {
		w.crashIn = 1 + w.chance.IntN(pick(w.scheduler, 20, 100, 600))
	}
}

// happen does what a moment is about.
func (w *world) happen(m moment) {
	w.say("moment", "what", m.what, "host", m.host, "lasts", m.lasts, "by", m.by)
	w.outages = append(w.outages, span{from: time.Now(), until: time.Now().Add(m.lasts)})
	switch m.what {
	case "suspend", "cut off", "slow leases", "kill", "roll", "gone":
		w.happenTo(w.seats[m.seat], m)
	case "gitlab away":
		w.awayGitLab++
		w.after(m.lasts, func() { w.awayGitLab-- })
	case "store away":
		w.awayStore++
		w.after(m.lasts, func() { w.awayStore-- })
	case "clock":
		w.seats[m.seat].clockOff.Add(int64(m.by))
		w.jumps = append(w.jumps, time.Now())
	case "terminate":
		w.terminate(w.seats[m.seat])
	case "silence", "power cut":
		if w.fleet.hosts[m.host].silent {
			return
		}
		w.fleet.silence(m.host, true)
		if m.what == "power cut" {
			w.fleet.lose(m.host)
		}
		w.after(m.lasts, func() { w.fleet.silence(m.host, false) })
	case "trouble":
		w.fleet.hosts[m.host].trouble = "the thin pool is full"
		w.after(m.lasts, func() { w.fleet.hosts[m.host].trouble = "" })
	case "drain":
		w.drain(m.host, true)
		w.after(m.lasts, func() { w.drain(m.host, false) })
	}
}

func pool(host, addresses int) firerunner.AddressPool {
	first := netip.AddrFrom4([4]byte{10, 0, byte(host), 10})
	last := first
	for range addresses - 1 {
		last = last.Next()
	}
	return firerunner.AddressPool{First: first, Last: last, Bits: 24, Gateway: netip.AddrFrom4([4]byte{10, 0, byte(host), 1})}
}
