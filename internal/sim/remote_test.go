package sim

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// What a daemon does on its own machine ends with it. What it has asked of another machine may be done later, when its
// successor has already removed all that there was: the reaper finds that.
func TestAfterDeath(t *testing.T) {
	t.Parallel()
	for _, remote := range []bool{false, true} {
		t.Run(fmt.Sprintf("Remote=%t", remote), func(t *testing.T) {
			t.Parallel()
			late := 0
			for seed := range uint64(16) {
				p := plan{
					remote: remote, projects: []int64{1}, deadlines: firerunner.DefaultDeadlines(), holdAfter: time.Minute,
					hosts: []firerunner.Host{{Name: "a", Driver: "sim", VCPUs: 8, MemoryMiB: 16384, Slots: 4}},
					jobs:  []wish{{at: time.Second, project: 1, tags: tagSmall, takes: time.Minute, cancel: 5 * time.Second}},
					chaos: time.Second, patience: 40 * time.Minute,
				}
				r := Run(t, Options{Seed: seed, plan: &p, tamper: tamper{
					trip: func(w *world, what, _ string, t trip) trip {
						if what == "create" {
							w.after(time.Second, func() { w.seats[0].daemon.crash("driver.create") })
							t.there = time.Minute
						}
						return t
					},
				}, done: func(w *world) bool {
					if w.clock() < 2*time.Minute || !w.over() {
						return false
					}
					for _, vm := range w.fleet.all {
						if late++; !vm.late || !vm.destroyed {
							w.problem("microVM %s is not known to be late, or still there", vm.spec.ID)
						}
					}
					return true
				}})
				require.Empty(t, r.Problems)
				require.NotZero(t, r.Crashes)
			}
			require.Equal(t, remote, late > 0)
		})
	}
}
