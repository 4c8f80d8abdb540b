package sim

import (
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seeds = flag.Int("seeds", 40, "how many seeds TestSeeds lives through")
	from  = flag.Uint64("from", 1, "the first seed")
	lanes = flag.Int("lanes", 2, "how many at once")
)

// TestSeeds lives through many seeds. One that fails is told with the command that replays it.
func TestSeeds(t *testing.T) {
	t.Parallel()
	var next atomic.Uint64
	next.Store(*from)
	last := *from + uint64(*seeds)
	var mu sync.Mutex
	var all Result
	for lane := range *lanes {
		t.Run(fmt.Sprint("Lane", lane), func(t *testing.T) {
			t.Parallel()
			for {
				seed := next.Add(1) - 1
				if seed >= last {
					return
				}
				r := Run(t, Options{Seed: seed, Tell: teller(t)})
				mu.Lock()
				all.Turns, all.Virtual, all.Jobs, all.Ran = all.Turns+r.Turns, all.Virtual+r.Virtual, all.Jobs+r.Jobs, all.Ran+r.Ran
				all.Crashes, all.Harmed, all.Unclear = all.Crashes+r.Crashes, all.Harmed+r.Harmed, all.Unclear+r.Unclear
				all.Told += r.Told
				mu.Unlock()
				for _, p := range r.Problems {
					t.Errorf("seed %d: %s", seed, p)
				}
				if len(r.Problems) > 0 {
					t.Errorf("replay: go test ./internal/sim -run TestSeeds -seeds 1 -from %d -v", seed)
				}
			}
		})
	}
	t.Cleanup(func() {
		t.Logf("%d seeds: %s of virtual time, %d turns, %d jobs, %d ran to their end, %d crashes, %d microVMs harmed, %d jobs failed for theirs in a quiet time, %d unclear",
			*seeds, all.Virtual.Round(time.Second), all.Turns, all.Jobs, all.Ran, all.Crashes, all.Harmed, all.Told, all.Unclear)
		if *seeds >= 200 && all.Told == 0 {
			t.Error("no job was failed for its microVM in a quiet time: the invariant looks at nothing")
		}
	})
}

// teller shows the timeline where one seed is looked at with -v.
func teller(*testing.T) func(string) {
	if *seeds != 1 || !testing.Verbose() {
		return nil
	}
	return func(line string) { fmt.Fprintln(os.Stdout, line) }
}
