package placement

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// simulation is a fleet without machines: a runner that is placed runs for as long as its job takes, and every step is
// written to an event log.
type simulation struct {
	hosts     []firerunner.Host
	holdAfter time.Duration
	now       time.Time
	runners   []firerunner.Runner // in order of age
	takes     map[string]time.Duration
	ends      map[string]time.Time
	events    []firerunner.Event
}

func newSimulation(hosts []firerunner.Host, holdAfter time.Duration) *simulation {
	return &simulation{
		hosts: hosts, holdAfter: holdAfter, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		takes: map[string]time.Duration{}, ends: map[string]time.Time{},
	}
}

func (s *simulation) queue(cpus, memoryMiB int, takes time.Duration) string {
	r := firerunner.NewRunner(fmt.Sprintf("r%06d", len(s.runners)), firerunner.Demand{}, s.now)
	r.Size = firerunner.Size{VCPUs: cpus, MemoryMiB: memoryMiB}
	s.runners = append(s.runners, r)
	s.takes[r.ID] = takes
	return r.ID
}

func (s *simulation) move(r *firerunner.Runner, to firerunner.State, host string) {
	s.events = append(s.events, firerunner.Event{At: s.now, Kind: firerunner.EventMoved, RunnerID: r.ID, From: r.State, To: to, Message: host})
	r.State, r.MovedAt = to, s.now
}

// place is one round of decisions, as control makes it.
func (s *simulation) place() {
	var waiting []firerunner.Runner
	byID := map[string]*firerunner.Runner{}
	for i := range s.runners {
		if r := &s.runners[i]; r.State == firerunner.Queued {
			waiting = append(waiting, *r)
			byID[r.ID] = r
		}
	}
	for _, d := range Decide(Round{Loads: NewLoads(s.hosts, s.runners), Now: s.now, HoldAfter: s.holdAfter}, waiting) {
		if d.Host != "" {
			r := byID[d.RunnerID]
			r.Host = d.Host
			s.move(r, firerunner.Placed, d.Host)
			s.ends[r.ID] = s.now.Add(s.takes[r.ID])
		}
	}
}

// step goes on to the next end and ends what ends then; false: nothing runs.
func (s *simulation) step() bool {
	var next time.Time
	for _, at := range s.ends {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if next.IsZero() {
		return false
	}
	s.now = next
	for i := range s.runners {
		r := &s.runners[i]
		if at, runs := s.ends[r.ID]; runs && at.Equal(next) {
			delete(s.ends, r.ID)
			s.move(r, firerunner.Gone, r.Host)
		}
	}
	return true
}

// requireWithinCapacity replays the log and looks at every instant.
func (s *simulation) requireWithinCapacity(t *testing.T) {
	t.Helper()
	size := map[string]firerunner.Size{}
	for _, r := range s.runners {
		size[r.ID] = r.Size
	}
	capacity, used := map[string]firerunner.Host{}, map[string]firerunner.Host{}
	for _, h := range s.hosts {
		capacity[h.Name] = h
	}
	for _, e := range s.events {
		sign := 1
		if e.To == firerunner.Gone {
			sign = -1
		}
		u, c := used[e.Message], capacity[e.Message]
		u.VCPUs += sign * size[e.RunnerID].VCPUs
		u.MemoryMiB += sign * size[e.RunnerID].MemoryMiB
		u.Slots += sign
		used[e.Message] = u
		if u.VCPUs > c.VCPUs || u.MemoryMiB > c.MemoryMiB || u.Slots > c.Slots || u.Slots < 0 {
			t.Fatalf("host %s at %s: %+v of %+v", e.Message, e.At, u, c)
		}
	}
}

// 500 jobs of mixed sizes on three hosts, all at once: never over capacity, and done within 1.15 times the time that no
// schedule can beat.
func TestSimulatedFleet(t *testing.T) {
	t.Parallel()
	const jobs, most = 500, 1.15
	worst := 0.0
	for seed := range uint64(4) {
		random := rand.New(rand.NewPCG(seed, 1))
		s := newSimulation([]firerunner.Host{host("a", 16, 32768, 16), host("b", 16, 65536, 16), host("c", 32, 65536, 24)}, 5*time.Minute)
		var bound, cpu, mem, slot float64
		for range jobs {
			size := [][2]int{{1, 1}, {1, 2}, {2, 4}, {2, 8}, {4, 8}, {8, 16}, {4, 2}, {16, 24}}[random.IntN(8)]
			takes := time.Duration(20+random.IntN(580)) * time.Second
			s.queue(size[0], size[1]*1024, takes)
			cpu += float64(size[0]) * takes.Seconds() / (16 + 16 + 32)
			mem += float64(size[1]*1024) * takes.Seconds() / (32768 + 65536 + 65536)
			slot += takes.Seconds() / (16 + 16 + 24)
			bound = max(bound, takes.Seconds())
		}
		began := s.now
		for s.place(); s.step(); s.place() {
		}
		for _, r := range s.runners {
			require.Equal(t, firerunner.Gone, r.State, r.ID)
		}
		s.requireWithinCapacity(t)
		ratio := s.now.Sub(began).Seconds() / max(bound, cpu, mem, slot)
		worst = max(worst, ratio)
		require.LessOrEqual(t, ratio, most, "seed %d", seed)
	}
	t.Logf("the worst run took %.3f times the lower bound", worst)
}

// A steady stream of small jobs fills the host for ever. Without a reservation a large one never gets its turn; with one
// it does, as soon as what ran on its host when its wait was over has ended.
func TestStarvation(t *testing.T) {
	t.Parallel()
	const holdAfter, small = 10 * time.Minute, 7 * time.Minute
	run := func(holdAfter time.Duration) (waited time.Duration, placed bool, others int) {
		s := newSimulation([]firerunner.Host{host("a", 8, 16384, 8), host("b", 8, 16384, 8)}, holdAfter)
		began := s.now
		for range 14 { // out of step with each other
			s.queue(1, 1024, small)
			s.place()
			s.now = s.now.Add(30 * time.Second)
		}
		large := len(s.runners)
		s.queue(6, 1024, time.Hour)
		queued := s.now
		for range 120 {
			for range 4 {
				s.queue(1, 1024, small) // more than there is room for
			}
			s.place()
			if r := s.runners[large]; r.State == firerunner.Placed {
				s.requireWithinCapacity(t)
				return r.MovedAt.Sub(queued), true, s.ran("b", began) + s.ran("a", began)
			}
			s.step()
		}
		return 0, false, 0
	}
	_, placed, _ := run(0)
	require.False(t, placed, "the stream must starve it, or this test shows nothing")
	waited, placed, others := run(holdAfter)
	require.True(t, placed)
	require.LessOrEqual(t, waited, holdAfter+small)
	require.Greater(t, waited, holdAfter)
	require.Greater(t, others, 14, "the other host works on")
}

func (s *simulation) ran(host string, since time.Time) (n int) {
	for _, e := range s.events {
		if e.To == firerunner.Placed && e.Message == host && !e.At.Before(since) {
			n++
		}
	}
	return n
}

// A hold is for one host, for hosts that could carry the runner, and lets the runner itself in.
func TestHold(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	busy := func(id, on string, cpus int) firerunner.Runner {
		r := runner(id, cpus, 64)
		r.Host, r.State = on, firerunner.Running
		return r
	}
	tiny, a, b := host("tiny", 2, 8192, 8), host("a", 8, 8192, 8), host("b", 8, 8192, 8)
	running := []firerunner.Runner{busy("x", "a", 5), busy("y", "b", 4)}
	large, second := runner("large", 8, 64), runner("second", 7, 64)
	large.MovedAt, second.MovedAt = now.Add(-time.Hour), now.Add(-time.Hour)
	small := []firerunner.Runner{runner("s1", 2, 64), runner("s2", 3, 64), runner("s3", 3, 64)}
	for i := range small {
		small[i].MovedAt = now
	}
	got := Decide(Round{Loads: NewLoads([]firerunner.Host{tiny, a, b}, running), Now: now, HoldAfter: time.Minute},
		append([]firerunner.Runner{large, second}, small...))
	require.Empty(t, got[0].Host)
	require.Empty(t, got[1].Host, "one hold at a time")
	require.Contains(t, got[1].Why, "1 host: kept free for 8cpu-64mb, which has waited for longer")
	require.Equal(t, "tiny", got[2].Host)
	require.Equal(t, "a", got[3].Host, "b lacks least and is held")
	require.Contains(t, got[4].Why, "kept free")
	got = Decide(Round{Loads: NewLoads([]firerunner.Host{tiny, a, b}, running[:1]), Now: now, HoldAfter: time.Minute}, []firerunner.Runner{large})
	require.Equal(t, "b", got[0].Host)
	require.Empty(t, Decide(Round{Loads: NewLoads([]firerunner.Host{tiny}, nil), Now: now, HoldAfter: time.Minute}, []firerunner.Runner{large, small[0]})[0].Host)
}
