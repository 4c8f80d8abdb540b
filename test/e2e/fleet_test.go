package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/flintlocktest"
)

// on is the live runners on a host.
func (s *site) on(host string) []firerunner.Runner {
	return slices.DeleteFunc(s.rows(firerunner.RunnerQuery{Live: true}), func(r firerunner.Runner) bool { return r.Host != host })
}

// TestFleet runs twelve jobs of three sizes on three hosts. One host loses its power while a job runs there, and another
// is drained: everything that had not begun runs elsewhere, what runs on the drained host ends well, and of the job on
// the dead one nobody says that it went well.
func TestFleet(t *testing.T) {
	t.Parallel()
	if under.skip != "" {
		t.Skip(under.skip)
	}
	f := newFleet(t, 3)
	s := newSite(t, options{fleet: f})
	victim := s.only("victim:\n  tags: [firecracker-1cpu-2gb]\n  script: [echo begun, sleep 600]\n")
	s.says(victim.ID, "begun")
	dead := s.row(victim.ID).Host

	var ci strings.Builder
	ci.WriteString("variables: {GIT_STRATEGY: none}\n")
	sizes := []string{"1cpu-1gb", "2cpu-1gb", "1cpu-2gb"}
	for i := range 11 {
		fmt.Fprintf(&ci, "job%d:\n  tags: [firecracker-%s]\n  script: [nproc, echo well]\n", i, sizes[i%len(sizes)])
	}
	p := s.push(ci.String())
	// One that has not begun is beside the victim when the host dies.
	s.eventually("another runner on the victim's host", func() bool {
		return len(s.on(dead)) > 1
	})
	server := func(name string) *flintlocktest.Server {
		return f.hosts[slices.Index([]string{"h1", "h2", "h3"}, name)]
	}
	server(dead).PowerOff()
	began := time.Now()

	// Another one is drained, with whatever runs on it.
	drained := map[string]string{"h1": "h2", "h2": "h3", "h3": "h1"}[dead]
	require.Contains(t, s.cli("hosts", "drain", drained), drained)
	at := time.Now()

	s.eventually("the victim is lost", func() bool { return s.row(victim.ID).Outcome == firerunner.Lost })
	t.Logf("lost after %s; the limit is 10 s, and a probe's 5 s", time.Since(began))
	require.Less(t, time.Since(began), 40*time.Second)
	require.Equal(t, firerunner.ReasonHostLost, s.row(victim.ID).Reason)
	for i := range 11 {
		s.succeeded(s.job(p, fmt.Sprint("job", i)).ID)
	}
	s.failedFor(victim.ID, s.row(victim.ID).ID, firerunner.ReasonHostLost)

	for _, e := range s.events(firerunner.EventQuery{Kinds: []firerunner.EventKind{firerunner.EventMoved}}) {
		if e.To == firerunner.Placed && e.At.After(at.Add(3*time.Second)) {
			require.NotContains(t, e.Message, "on host "+drained, "it drains")
			require.NotContains(t, e.Message, "on host "+dead, "it is dead")
		}
	}
	for _, r := range s.rows(firerunner.RunnerQuery{}) {
		if r.Host == drained {
			require.Contains(t, []firerunner.Outcome{firerunner.Succeeded, firerunner.Cancelled}, r.Outcome, "%s on the drained host: %s", r.ID, r.Message)
		}
	}
	require.Regexp(t, drained+`.*drain`, s.cli("hosts", "list"))

	// Its power comes back, and with it what was on its disks. Nothing of it stays.
	require.NoError(t, server(dead).StartDaemon())
	ctx, cancel := s.patiently()
	defer cancel()
	for _, h := range f.hosts {
		require.NoError(t, h.Wait(ctx, func(vms []flintlocktest.VM) bool { return len(vms) == 0 }))
		require.Zero(t, h.Running())
	}
	for _, h := range []string{"h1", "h2", "h3"} {
		most := s.mostOn(h)
		require.LessOrEqual(t, most.VCPUs, 2, h)
		require.LessOrEqual(t, most.MemoryMiB, 3072, h)
	}
	s.quiet()
	s.doctored(f, 0)
}

// mostOn is the most that runners ever held of a host at once, by the events.
func (s *site) mostOn(host string) (most firerunner.Size) {
	size := map[string]firerunner.Size{}
	for _, r := range s.rows(firerunner.RunnerQuery{}) {
		if r.Host == host {
			size[r.ID] = r.Size
		}
	}
	var held firerunner.Size
	for _, e := range s.events(firerunner.EventQuery{Kinds: []firerunner.EventKind{firerunner.EventMoved}}) {
		switch mine := size[e.RunnerID]; {
		case e.To == firerunner.Placed:
			held.VCPUs, held.MemoryMiB = held.VCPUs+mine.VCPUs, held.MemoryMiB+mine.MemoryMiB
		case e.To == firerunner.Gone && e.From >= firerunner.Placed:
			held.VCPUs, held.MemoryMiB = held.VCPUs-mine.VCPUs, held.MemoryMiB-mine.MemoryMiB
		}
		most.VCPUs, most.MemoryMiB = max(most.VCPUs, held.VCPUs), max(most.MemoryMiB, held.MemoryMiB)
	}
	return most
}
