package sim

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

var fleets = flag.Uint64("fleets", 1, "how many seeds TestFiveHundredJobs lives through")

// TestFiveHundredJobs: 500 jobs of mixed sizes, all at once, on three hosts. What each host carries is within its capacity
// at every instant, by the event log and by what is truly there, and the last job ends within 1.15 times the time that no
// schedule can beat, although microVMs take time to boot and to go, which that bound does not count. Under the race detector
// the jobs are fewer, and the end of the last says nothing.
func TestFiveHundredJobs(t *testing.T) {
	t.Parallel()
	const jobs, most = fleetJobs, 1.15
	for seed := range *fleets {
		p := plan{
			remote: true, listsSilent: true, projects: []int64{1}, deadlines: firerunner.DefaultDeadlines(), holdAfter: 5 * time.Minute,
			chaos: time.Hour, patience: 12 * time.Hour, hosts: []firerunner.Host{
				{Name: "a", Driver: "sim", VCPUs: 16, MemoryMiB: 32768, Slots: 16, Addresses: pool(0, 16)},
				{Name: "b", Driver: "sim", VCPUs: 16, MemoryMiB: 65536, Slots: 16},
				{Name: "c", Driver: "sim", VCPUs: 32, MemoryMiB: 65536, Slots: 24},
			},
		}
		draw := newScheduler(seed)
		var cpu, memory, slots, longest float64
		for range jobs {
			size := pick(draw, [2]int{1, 1}, [2]int{1, 2}, [2]int{2, 4}, [2]int{2, 8}, [2]int{4, 8}, [2]int{8, 16}, [2]int{4, 2}, [2]int{16, 24})
			takes := draw.between(20*time.Second, 10*time.Minute)
			p.jobs = append(p.jobs, wish{
				at: draw.between(0, time.Second), project: 1, takes: takes,
				tags: firerunner.TagSet(fmt.Sprintf("firecracker-%dcpu-%dgb", size[0], size[1])),
			})
			cpu += float64(size[0]) * takes.Seconds() / (16 + 16 + 32)
			memory += float64(size[1]*1024) * takes.Seconds() / (32768 + 65536 + 65536)
			slots += takes.Seconds() / (16 + 16 + 24)
			longest = max(longest, takes.Seconds())
		}
		var last time.Duration
		r := Run(t, Options{Seed: seed, plan: &p, done: func(w *world) bool {
			if w.clock() > p.patience {
				w.problem("not all jobs have ended")
				return true
			}
			if len(w.gitlab.order) < jobs || !w.atRest() {
				return false
			}
			for _, j := range w.gitlab.jobs {
				last = max(last, j.FinishedAt.Sub(w.began))
			}
			return true
		}})
		require.Empty(t, r.Problems)
		require.Equal(t, jobs, r.Ran)
		bound := max(cpu, memory, slots, longest)
		t.Logf("seed %d: %s, %.3f times the lower bound of %.0f s; %d turns", seed, last.Round(time.Second), last.Seconds()/bound, bound, r.Turns)
		if jobs == 500 {
			require.LessOrEqual(t, last.Seconds()/bound, most, "seed %d", seed)
		}
	}
}
