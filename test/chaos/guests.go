package main

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/firerunner/firerunner/internal/driver/fake"
	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/test/scripted"
)

// guests is what the scripted guests themselves saw. Nobody else can say in how many of them a job was.
type guests struct {
	gitlab string // where it listens

	mu       sync.Mutex
	alive    map[string]int     // by microVM
	jobs     map[int64][]string // the microVMs that a job was in
	vms      map[string][]int64 // the jobs that a microVM had
	problems []string
	refused  int
}

func newGuests(gitlab string) *guests {
	return &guests{gitlab: gitlab, alive: map[string]int{}, jobs: map[int64][]string{}, vms: map[string][]int64{}}
}

// play is the life of a guest, with its machine counted.
func (g *guests) play(ctx context.Context, m *flintlocktest.Guest) {
	g.mu.Lock()
	g.alive[m.ID]++
	if n := g.alive[m.ID]; n > 1 {
		g.problems = append(g.problems, fmt.Sprintf("%d machines of microVM %s ran at one time", n, m.ID))
	}
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.alive[m.ID]--
	}()
	played := scripted.Guests{
		Runner: func() fake.Runner {
			return fake.Runner{Poll: 200 * time.Millisecond, Again: 100 * time.Millisecond, Work: g.work}
		},
		Dial:    g.dial,
		Refused: func(string) { g.mu.Lock(); defer g.mu.Unlock(); g.refused++ },
	}
	played.Play(ctx, m)
}

// dial leads to where a guest's network would: a GitLab on loopback has another name in guests.
func (g *guests) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if host, _, _ := net.SplitHostPort(address); host == strings.TrimPrefix(guestGitLab, "http://") {
		address = g.gitlab
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// work does what the scripts of the plan say.
func (g *guests) work(t fake.Task) (w fake.Work) {
	g.mu.Lock()
	g.jobs[t.Job], g.vms[t.VM] = append(g.jobs[t.Job], t.VM), append(g.vms[t.VM], t.Job)
	g.mu.Unlock()
	w.Log = said + hostname(t.VM) + "\n"
	for _, line := range t.Script {
		if length, ok := strings.CutPrefix(line, "sleep "); ok {
			seconds, _ := strconv.ParseFloat(length, 64)
			w.Time += time.Duration(seconds * float64(time.Second))
		}
		if strings.HasPrefix(line, "exit ") {
			w.Failure = "script_failure"
		}
	}
	return w
}

// hostname is what a microVM calls itself.
func hostname(vm string) string { return "fr-" + vm }
