package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/placement"
)

// BenchmarkPlacement is one round of decisions for 10,000 queued runners of many sizes and 20 profiles on 1,000 hosts that
// are half full: some thousand find a place, the others a reason. Each decision is measured by itself.
func BenchmarkPlacement(b *testing.B) {
	const hosts, queued = 1000, 10_000
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var fleet []firerunner.Host
	var running []firerunner.Runner
	size := func(i int) firerunner.Size {
		return firerunner.Size{VCPUs: []int{1, 2, 4, 8, 16}[i%5], MemoryMiB: []int{1, 2, 4, 8, 16, 24, 32}[i%7] * 1024}
	}
	for i := range hosts {
		h := firerunner.Host{Name: fmt.Sprintf("host%04d", i), VCPUs: 64, MemoryMiB: 128 << 10, Slots: 48, Labels: []string{fmt.Sprint("zone=", i%3)}}
		fleet = append(fleet, h)
		for n := range 6 {
			running = append(running, firerunner.Runner{Host: h.Name, State: firerunner.Running, Size: size(i + n)})
		}
	}
	var waiting []firerunner.Runner
	for i := range queued {
		r := firerunner.NewRunner(fmt.Sprintf("runner%05d", i), firerunner.Demand{ProjectID: int64(i % 50), Tags: "x"}, now)
		r.Profile, r.Size = fmt.Sprint("profile", i%20), size(i/3)
		waiting = append(waiting, r)
	}
	rejected := []placement.Rejection{{Demand: waiting[0].Demand, Host: "host0001", At: now}}
	var each []time.Duration
	b.ResetTimer()
	for range b.N {
		plan := placement.New(placement.Round{
			Loads: placement.NewLoads(fleet, running), Rejected: rejected, Now: now.Add(time.Hour), HoldAfter: time.Minute,
			Labels: func(profile string) []string { return []string{fmt.Sprint("zone=", len(profile)%3)} },
		})
		placed := 0
		for _, r := range waiting {
			began := time.Now()
			d := plan.Place(r)
			each = append(each, time.Since(began))
			if d.Host != "" {
				placed++
			}
		}
		require.Positive(b, placed)
		require.Less(b, placed, queued)
	}
	percentiles(b, each, "decision")
}
