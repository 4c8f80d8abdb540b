package qemu

import (
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

// tscWindow is how long the counter is measured. Both ends are known to about 50 ns, so it is good to 2 ppm.
const tscWindow = 30 * time.Millisecond

// tscClock measures the rate of the host's time stamp counter once. A guest under TCG sees the host's counter, and
// QEMU's microvm has no timer with which Debian's kernel could find out the rate: without it the kernel hangs.
type tscClock struct {
	once sync.Once
	kHz  uint64
}

// rate returns the rate in kHz.
func (c *tscClock) rate() (uint64, error) {
	if !haveTSC {
		return 0, firerunner.Errorf(firerunner.Unavailable, "qemu: this processor has no time stamp counter that a guest could use").
			WithHint("emulation works on x86-64 hosts only")
	}
	c.once.Do(func() {
		at, from := tscNow()
		time.Sleep(tscWindow)
		until, to := tscNow()
		c.kHz = (to - from) * 1_000_000 / uint64(until.Sub(at))
	})
	return c.kHz, nil
}

// tscNow reads clock and counter as close together as ten tries make it: the process may be interrupted between
// the two.
func tscNow() (at time.Time, counter uint64) {
	best := time.Duration(1<<63 - 1)
	for range 10 {
		before := time.Now()
		c := rdtsc()
		if took := time.Since(before); took < best {
			best, at, counter = took, before.Add(took/2), c
		}
	}
	return at, counter
}
