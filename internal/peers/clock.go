package peers

import (
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

// siteClock is the database's clock as it is known here. Deadlines are times that one controller writes and another may
// have to enforce, so all of a site's controllers count by it: that of a machine may be hours off, and jump.
type siteClock struct {
	mu   sync.Mutex
	site time.Time // the database's clock
	here time.Time // at this moment; its monotonic reading counts
}

// now is the time by the database's clock; by the machine's, before anything is known.
func (c *siteClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at(time.Now())
}

func (c *siteClock) at(here time.Time) time.Time {
	if c.here.IsZero() {
		return here
	}
	return c.site.Add(here.Sub(c.here))
}

// heard takes an answer of the database: its clock said site at some moment between asked and answered. As long as what is
// believed is possible after that, it stays; so no slow answer moves the clock.
func (c *siteClock) heard(site, asked, answered time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	least, most := site, site.Add(answered.Sub(asked))
	believed := c.at(answered)
	switch {
	case c.here.IsZero():
		believed = least.Add(most.Sub(least) / 2)
	case believed.Before(least):
		believed = least
	case believed.After(most):
		believed = most
	}
	c.site, c.here = believed.Round(0), answered
}

// Now is the time by the database's clock.
func (k *Keeper) Now() time.Time { return k.clock.now() }

// told takes the database's clock from a lease that was just taken or renewed for TTL.
func (k *Keeper) told(l firerunner.Lease, asked time.Time) {
	k.clock.heard(l.Until.Add(-k.TTL), asked, time.Now())
}
