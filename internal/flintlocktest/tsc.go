package flintlocktest

import (
	"errors"
	"runtime"
	"sync"
	"time"
)

// tscClock measures the rate of the host's time stamp counter once. An emulated guest sees the host's counter, and
// QEMU's microvm has no timer with which a stock kernel could find out the rate: without it the kernel hangs.
type tscClock struct {
	once sync.Once
	kHz  uint64
}

// tscWindow is how long the counter is measured.
const tscWindow = 30 * time.Millisecond

func (c *tscClock) rate() (kHz uint64, err error) {
	if runtime.GOARCH != "amd64" {
		return 0, errors.New("emulating works on x86-64 hosts only")
	}
	c.once.Do(func() {
		at, from := tscNow()
		time.Sleep(tscWindow)
		until, to := tscNow()
		c.kHz = (to - from) * 1_000_000 / uint64(until.Sub(at))
	})
	return c.kHz, nil
}

// tscNow reads clock and counter as close together as ten tries make it: the process may be interrupted in between.
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
