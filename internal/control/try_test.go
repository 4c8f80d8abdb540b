package control_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/control"
	"github.com/firerunner/firerunner/internal/driver/fake"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// breakage is what fails, and what was tried.
type breakage struct {
	mu    sync.Mutex
	fails func(s firerunner.MicroVMSpec) bool
	tried []string // image@host
}

func (b *breakage) create(s firerunner.MicroVMSpec) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tried = append(b.tried, s.Image.Name+"@"+s.Host)
	if b.fails(s) {
		return firerunner.Errorf(firerunner.Internal, "no console output").WithHint("look at the kernel")
	}
	return nil
}

func (b *breakage) count(pair string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range b.tried {
		if t == pair {
			n++
		}
	}
	return n
}

func (b *breakage) repair() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fails = func(firerunner.MicroVMSpec) bool { return false }
}

// trying is a fleet whose images have a digest that a test can change, and where the profile gpu has one of its own.
func trying(t *testing.T, b *breakage, digest func() string, hosts ...firerunner.Host) *house {
	h := newHouse(t, options{host: &hosts[0], driver: fake.Config{CreateErr: b.create}, change: func(c *control.Config) {
		c.GiveUpAfter = 3
		for i := range c.Profiles {
			if c.Profiles[i].Name == "gpu" {
				c.Profiles[i].Image = "cuda"
			}
		}
		c.Image = func(_ context.Context, name string) (firerunner.Image, error) {
			return firerunner.Image{Name: name, Digest: digest()}, nil
		}
	}})
	for _, host := range hosts[1:] {
		h.saveHost(host)
	}
	return h
}

func fixed() string { return "sha256:1" }

// goOn lets time go on and then sweeps, once nothing is being made: a leap of the clock would pass its deadlines.
func (h *house) goOn(d time.Duration) {
	h.t.Helper()
	for _, r := range h.live() {
		if r.State != firerunner.Queued {
			return
		}
	}
	h.later(d)
	require.NoError(h.t, h.control.Sweep(h.t.Context()))
}

// An image that comes up nowhere, asked for by many demands, is tried by one runner at a time on each host, and given up
// there with one event each; another image on the same hosts is not concerned. Once it is repaired all jobs run.
func TestBrokenImageIsGivenUp(t *testing.T) {
	t.Parallel()
	b := &breakage{fails: func(s firerunner.MicroVMSpec) bool { return s.Image.Name == "cuda" }}
	h := trying(t, b, fixed, fleetHost("a", 8), fleetHost("b", 8))
	var demands []string
	for cpus := range 4 {
		for mem := range 4 {
			demands = append(demands, fmt.Sprintf("gpu, firecracker-%dcpu-%dgb", cpus+1, mem+1))
		}
	}
	broken := h.push(demands...)
	h.until("the first were rejected", func() bool { return len(h.events(firerunner.EventUnwanted)) >= 2 })
	h.until("it is given up on both hosts", func() bool {
		if len(h.events(firerunner.EventImage)) == 2 {
			return true
		}
		h.goOn(5 * time.Second)
		return false
	})
	first := len(b.tried)
	require.LessOrEqual(t, first, 2*16+4, "a try for each demand while nobody knew, and then one at a time")
	for _, e := range h.events(firerunner.EventImage) {
		require.Regexp(t, `^image cuda on host [ab] is given up for 15m0s: it failed 3 times in a row, at last so: .*no console output \(look at the kernel\)`, e.Message)
	}
	fine := h.push(append([]string{small}, demands...)...)
	h.awaitJobs(gitlabtest.StatusSuccess, fine[0])
	for range 20 {
		h.goOn(30 * time.Second)
	}
	require.Len(t, b.tried, first+1, "only the one that is fine")
	require.LessOrEqual(t, len(h.live()), 1, "and they do not fill the queue")
	require.Len(t, h.events(firerunner.EventImage), 2)

	b.repair()
	all := append(broken, fine...)
	h.until("all run", func() bool {
		for _, id := range all {
			if j, _ := h.gitlab.Job(id); j.Status != gitlabtest.StatusSuccess {
				h.goOn(time.Minute)
				return false
			}
		}
		return true
	})
	h.nothingLeft()
	var again int
	for _, e := range h.events(firerunner.EventImage) {
		if strings.Contains(e.Message, "works again") {
			again++
		}
	}
	require.GreaterOrEqual(t, again, 1)
}

// A host on which nothing comes up stops no other: after one failure of an image its runners go elsewhere at once.
func TestBrokenHostStopsNoOther(t *testing.T) {
	t.Parallel()
	b := &breakage{fails: func(s firerunner.MicroVMSpec) bool { return s.Host == "bad" }}
	bad := fleetHost("bad", 8)
	bad.VCPUs, bad.MemoryMiB = 8, 8192 // the better fit
	h := trying(t, b, fixed, bad, fleetHost("good", 32))
	ids := h.push(small)
	h.until("the first was rejected", func() bool { return len(h.events(firerunner.EventUnwanted)) == 1 })
	for cpus := range 4 {
		ids = append(ids, h.push(fmt.Sprintf("firecracker-%dcpu-3gb", cpus+1))...) // demands that have not met it
	}
	h.awaitJobs(gitlabtest.StatusSuccess, ids[1:]...)
	require.Equal(t, 1, b.count("debian@bad"))
	h.goOn(3 * time.Second)
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.nothingLeft()
	require.LessOrEqual(t, b.count("debian@bad"), 2)
}

// What was given up stays so over a restart, without being said again; another image of the name, or an operator who drains
// the host and lets it take work again, ends it.
func TestGivenUpEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(h *house, digest *string, mu *sync.Mutex){
		"NewImage": func(h *house, digest *string, mu *sync.Mutex) {
			mu.Lock()
			*digest = "sha256:2"
			mu.Unlock()
		},
		"Accept": func(h *house, _ *string, _ *sync.Mutex) {
			host := h.host("a")
			host.Draining = true
			h.saveHost(host)
			require.NoError(h.t, h.control.Notice(h.t.Context()))
			host = h.host("a")
			host.Draining = false
			h.saveHost(host)
			require.NoError(h.t, h.control.Notice(h.t.Context()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			digest, mu := "sha256:1", &sync.Mutex{}
			b := &breakage{fails: func(firerunner.MicroVMSpec) bool { return true }}
			h := trying(t, b, func() string { mu.Lock(); defer mu.Unlock(); return digest }, fleetHost("a", 8))
			ids := h.push(small)
			h.until("it is given up", func() bool {
				if len(h.events(firerunner.EventImage)) == 1 && len(h.live()) == 0 {
					return true
				}
				h.goOn(5 * time.Second)
				return false
			})
			tried := b.count("debian@a")
			h.restart()
			require.NoError(t, h.control.Notice(t.Context()))
			for range 5 {
				h.goOn(time.Minute)
			}
			require.Equal(t, tried, b.count("debian@a"), "a restart is no new chance")
			require.Len(t, h.events(firerunner.EventImage), 1)
			b.repair()
			end(h, &digest, mu)
			h.goOn(2 * time.Minute)
			h.goOn(time.Second) // the first sweep may have seen the new image after it counted demand
			h.awaitJobs(gitlabtest.StatusSuccess, ids...)
			h.nothingLeft()
		})
	}
}
