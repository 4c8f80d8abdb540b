package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"
	"sync"
	"time"
)

// Memory is what there is little of beside many microVMs. Go lets as much garbage lie around as is in use (GOGC=100, which wins
// where the environment has it); the daemon lets that grow to garbageMiB, and beyond to leastPercent of what is in use.
// A small heap is left at Go's own: to look through it for each MiB costs a job half as much again.
const (
	garbageMiB   = 6
	leastPercent = 25
	thriftEvery  = time.Second
)

// thrift keeps the process small until stop is called.
func thrift(environ []string) (stop func()) {
	if slices.ContainsFunc(environ, func(v string) bool { return strings.HasPrefix(v, "GOGC=") }) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var looking sync.WaitGroup
	looking.Go(func() {
		tick := time.NewTicker(thriftEvery)
		defer tick.Stop()
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		before := 100
		defer func() { debug.SetGCPercent(100) }()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			metrics.Read(live)
			if percent := garbage(live[0].Value.Uint64()); percent != before {
				debug.SetGCPercent(percent)
				before = percent
			}
		}
	})
	return func() {
		cancel()
		looking.Wait()
	}
}

// garbage is the percentage for so many bytes in use, in steps of five.
func garbage(live uint64) int {
	percent := 100 * (garbageMiB << 20) / max(live, 1)
	return int(min(max(percent/5*5, leastPercent), 100))
}
