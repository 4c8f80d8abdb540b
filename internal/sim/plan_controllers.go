package sim

import "time"

// controllerPlan is one of several controllers on one database.
type controllerPlan struct {
	name   string
	begins time.Duration
	skew   time.Duration // of its machine's clock
}

// drawControllers makes a plan that of several controllers: with a network of hosts any can stand in for another, with
// machines of their own none can.
func drawControllers(s *scheduler, p *plan) {
	skewed := s.happens(0.6)
	for i := range 2 + s.chance.IntN(2) {
		c := controllerPlan{name: "c" + string(rune('1'+i)), begins: s.between(0, 5*time.Second)}
		if skewed {
			c.skew = s.between(0, 2*time.Minute) - time.Minute
		}
		p.controllers = append(p.controllers, c)
	}
	if !p.remote {
		p.hosts = nil
		for range p.controllers {
			var one plan
			drawHosts(s, &one)
			one.hosts[0].Name = string(rune('a' + len(p.hosts)))
			p.hosts = append(p.hosts, one.hosts[0])
		}
	}
	for i := range p.moments {
		p.moments[i].seat = s.chance.IntN(len(p.controllers))
	}
	add := func(odds float64, what string, least, most time.Duration) {
		for s.happens(odds) {
			p.moments = append(p.moments, moment{
				what: what, at: s.between(0, p.chaos), lasts: s.between(least, most), seat: s.chance.IntN(len(p.controllers)),
			})
		}
	}
	add(0.4, "suspend", time.Second, time.Minute)
	add(0.4, "cut off", time.Second, time.Minute)
	add(0.3, "slow leases", time.Second, time.Minute)
	add(0.4, "kill", 0, 0)
	add(0.3, "roll", time.Second, time.Minute)
	add(0.15, "gone", 0, 0)
}
