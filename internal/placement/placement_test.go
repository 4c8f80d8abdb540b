package placement

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firerunner/firerunner"
)

func host(name string, cpus, mem, slots int) firerunner.Host {
	return firerunner.Host{Name: name, VCPUs: cpus, MemoryMiB: mem, Slots: slots}
}

func runner(id string, cpus, mem int) firerunner.Runner {
	return firerunner.Runner{ID: id, Size: firerunner.Size{VCPUs: cpus, MemoryMiB: mem}, State: firerunner.Queued}
}

func decide(runners []firerunner.Runner, hosts []firerunner.Host) []Decision {
	return Decide(Round{Loads: NewLoads(hosts, nil)}, runners)
}

func TestDecide(t *testing.T) {
	t.Parallel()
	with := func(h firerunner.Host, change func(h *firerunner.Host)) firerunner.Host {
		change(&h)
		return h
	}
	d := with(host("d", 8, 8192, 8), func(h *firerunner.Host) { h.Draining = true })
	lost := with(host("l", 8, 8192, 8), func(h *firerunner.Host) { h.Lost, h.Trouble = true, "no answer" })
	sick := with(host("s", 8, 8192, 8), func(h *firerunner.Host) { h.Trouble = "the thin pool is full" })
	on := func(id, host string) Decision { return Decision{RunnerID: id, Host: host} }
	not := func(id, why string) Decision { return Decision{RunnerID: id, Why: why} }
	for name, tt := range map[string]struct {
		runners []firerunner.Runner
		hosts   []firerunner.Host
		want    []Decision
	}{
		"OK":         {[]firerunner.Runner{runner("a", 1, 1024)}, []firerunner.Host{host("h", 2, 4096, 2)}, []Decision{on("a", "h")}},
		"BestFit":    {[]firerunner.Runner{runner("a", 1, 1024)}, []firerunner.Host{host("big", 8, 8192, 8), host("small", 1, 1024, 1)}, []Decision{on("a", "small")}},
		"Scarcer":    {[]firerunner.Runner{runner("a", 1, 4096)}, []firerunner.Host{host("cpus", 64, 8192, 8), host("mem", 2, 65536, 8)}, []Decision{on("a", "cpus")}},
		"NoHost":     {[]firerunner.Runner{runner("a", 1, 1024)}, nil, []Decision{not("a", "there is no host")}},
		"Draining":   {[]firerunner.Runner{runner("a", 1, 1024)}, []firerunner.Host{d}, []Decision{not("a", "1 host: draining")}},
		"Lost":       {[]firerunner.Runner{runner("a", 1, 1024)}, []firerunner.Host{lost}, []Decision{not("a", "1 host: lost: it does not answer")}},
		"Trouble":    {[]firerunner.Runner{runner("a", 1, 1024)}, []firerunner.Host{sick, d}, []Decision{not("a", "1 host: draining; 1 host: in trouble: the thin pool is full")}},
		"NoSlot":     {[]firerunner.Runner{runner("a", 1, 64), runner("b", 1, 64)}, []firerunner.Host{host("h", 8, 8192, 1)}, []Decision{on("a", "h"), not("b", "1 host: all 1 slots taken")}},
		"NoMemory":   {[]firerunner.Runner{runner("a", 1, 3000), runner("b", 1, 3000)}, []firerunner.Host{host("h", 8, 4096, 4)}, []Decision{on("a", "h"), not("b", "1 host: 1096 of 4096 MiB free, 3000 needed")}},
		"NoVCPUs":    {[]firerunner.Runner{runner("a", 2, 64), runner("b", 1, 64)}, []firerunner.Host{host("h", 2, 4096, 4)}, []Decision{on("a", "h"), not("b", "1 host: 0 of 2 vCPUs free, 1 needed")}},
		"TooLarge":   {[]firerunner.Runner{runner("a", 16, 1024)}, []firerunner.Host{host("h", 2, 4096, 4), host("i", 2, 4096, 4)}, []Decision{not("a", "2 hosts: smaller than 16cpu-1gb even when empty")}},
		"SkipsLarge": {[]firerunner.Runner{runner("a", 16, 1024), runner("b", 1, 1024)}, []firerunner.Host{host("h", 2, 4096, 4)}, []Decision{not("a", "1 host: smaller than 16cpu-1gb even when empty"), on("b", "h")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, decide(tt.runners, tt.hosts))
		})
	}
}

// A thousand hosts with a thousand reasons are not told one by one.
func TestManyReasons(t *testing.T) {
	t.Parallel()
	var hosts []firerunner.Host
	for i := range 1000 {
		hosts = append(hosts, host(fmt.Sprint("h", i), 64, 100+i, 8))
	}
	for i := range hosts {
		hosts[i].Trouble = fmt.Sprint("trouble ", i)
	}
	why := decide([]firerunner.Runner{runner("a", 1, 64)}, hosts)[0].Why
	require.Less(t, len(why), 400)
	require.Contains(t, why, "; 992 hosts: other reasons")
}

// A profile's labels choose hosts, all of them.
func TestLabels(t *testing.T) {
	t.Parallel()
	a, b := host("a", 8, 8192, 8), host("b", 8, 8192, 8)
	a.Labels, b.Labels = []string{"zone=a"}, []string{"zone=b", "gpu"}
	asks := map[string][]string{"gpu": {"gpu", "zone=b"}, "both": {"gpu", "zone=a"}}
	r, s, free := runner("r", 1, 64), runner("s", 1, 64), runner("f", 1, 64)
	r.Profile, s.Profile = "gpu", "both"
	got := Decide(Round{Loads: NewLoads([]firerunner.Host{a, b}, nil), Labels: func(p string) []string { return asks[p] }}, []firerunner.Runner{r, s, free})
	require.Equal(t, "b", got[0].Host)
	require.Equal(t, "1 host: without label gpu of profile both; 1 host: without label zone=a of profile both", got[1].Why)
	require.NotEmpty(t, got[2].Host)
}

// The decision picks the address, the lowest that is free, and never one twice.
func TestAddress(t *testing.T) {
	t.Parallel()
	h := host("h", 8, 8192, 8)
	h.Addresses = firerunner.AddressPool{First: netip.MustParseAddr("10.0.0.5"), Last: netip.MustParseAddr("10.0.0.7"), Bits: 24}
	ending := runner("old", 1, 64)
	ending.Host, ending.State, ending.Address = "h", firerunner.Stopping, netip.MustParseAddr("10.0.0.6")
	gone := ending
	gone.State, gone.Address = firerunner.Gone, netip.MustParseAddr("10.0.0.5")
	got := Decide(Round{Loads: NewLoads([]firerunner.Host{h}, []firerunner.Runner{ending, gone})},
		[]firerunner.Runner{runner("a", 1, 64), runner("b", 1, 64), runner("c", 1, 64)})
	require.Equal(t, []Decision{
		{RunnerID: "a", Host: "h", Address: netip.MustParseAddr("10.0.0.5")},
		{RunnerID: "b", Host: "h", Address: netip.MustParseAddr("10.0.0.7")},
		{RunnerID: "c", Why: "1 host: all addresses from 10.0.0.5 to 10.0.0.7 taken"},
	}, got)
}

// Equals are spread, and the same question has the same answer.
func TestSpread(t *testing.T) {
	t.Parallel()
	hosts := []firerunner.Host{host("a", 8, 8192, 8), host("b", 8, 8192, 8), host("c", 8, 8192, 8)}
	first := map[string]int{}
	for i := range 300 {
		ask := []firerunner.Runner{runner(fmt.Sprint("runner", i), 1, 64)}
		got := decide(ask, hosts)
		require.Equal(t, got, decide(ask, []firerunner.Host{hosts[2], hosts[0], hosts[1]}))
		first[got[0].Host]++
	}
	for _, h := range hosts {
		require.Greater(t, first[h.Name], 50, first)
	}
}

// A host that rejected the demand comes last, one that did so longer ago before it, and only for that demand.
func TestRejected(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	hosts := []firerunner.Host{host("a", 1, 1024, 1), host("b", 4, 8192, 1), host("c", 8, 16384, 1)}
	demand := firerunner.Demand{ProjectID: 1, Tags: "x"}
	round := Round{Loads: NewLoads(hosts, nil), Rejected: []Rejection{{demand, "b", now.Add(time.Second)}, {demand, "a", now.Add(time.Minute)}, {demand, "a", now}}}
	runners := []firerunner.Runner{runner("r1", 1, 64), runner("r2", 1, 64), runner("r3", 1, 64)}
	for i := range runners {
		runners[i].Demand = demand
	}
	var order []string
	for _, d := range Decide(round, runners) {
		order = append(order, d.Host)
	}
	require.Equal(t, []string{"c", "b", "a"}, order)
	round.Loads = NewLoads(hosts, nil)
	require.Equal(t, "a", Decide(round, []firerunner.Runner{runner("other", 1, 64)})[0].Host)
}

func TestNewLoadsCountsReservations(t *testing.T) {
	t.Parallel()
	placed := runner("a", 2, 1024)
	placed.Host, placed.State = "h", firerunner.Stopping
	gone := runner("b", 2, 1024)
	gone.Host, gone.State = "h", firerunner.Gone
	elsewhere := runner("c", 2, 1024)
	elsewhere.Host, elsewhere.State = "unknown", firerunner.Running
	loads := NewLoads([]firerunner.Host{host("h", 4, 4096, 4)}, []firerunner.Runner{placed, gone, elsewhere})
	require.Equal(t, 2, loads[0].UsedVCPUs)
	require.Equal(t, 1024, loads[0].UsedMemoryMiB)
	require.Equal(t, 1, loads[0].UsedSlots)
}

// No host is ever over its capacity, and every runner without a host has a reason.
func TestNeverOverCapacity(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		var hosts []firerunner.Host
		for i := range rapid.IntRange(0, 5).Draw(t, "hosts") {
			h := host(fmt.Sprint("h", i), rapid.IntRange(1, 16).Draw(t, "cpus"), rapid.IntRange(512, 16384).Draw(t, "mem"), rapid.IntRange(0, 8).Draw(t, "slots"))
			if n := rapid.IntRange(0, 6).Draw(t, "addresses"); n > 0 {
				h.Addresses = firerunner.AddressPool{First: netip.AddrFrom4([4]byte{10, 0, 0, 1}), Last: netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), Bits: 24}
			}
			h.Draining = rapid.IntRange(0, 5).Draw(t, "draining") == 0
			hosts = append(hosts, h)
		}
		var runners []firerunner.Runner
		for i := range rapid.IntRange(0, 40).Draw(t, "runners") {
			r := runner(fmt.Sprint("r", i), rapid.IntRange(1, 8).Draw(t, "cpu"), rapid.IntRange(128, 8192).Draw(t, "m"))
			r.MovedAt = now.Add(-time.Duration(rapid.IntRange(0, 3).Draw(t, "waited")) * time.Minute)
			runners = append(runners, r)
		}
		decisions := Decide(Round{Loads: NewLoads(hosts, nil), Now: now, HoldAfter: 2 * time.Minute}, runners)
		if len(decisions) != len(runners) {
			t.Fatalf("%d decisions for %d runners", len(decisions), len(runners))
		}
		for i, d := range decisions {
			if (d.Host == "") == (d.Why == "") {
				t.Fatalf("decision %+v has neither host nor reason, or both", d)
			}
			runners[i].Host, runners[i].Address = d.Host, d.Address
			if d.Host != "" {
				runners[i].State = firerunner.Placed
			}
		}
		given := map[string]bool{}
		for _, r := range runners {
			key := r.Host + " " + r.Address.String()
			if r.Address.IsValid() && given[key] {
				t.Fatalf("address %s is given twice", key)
			}
			given[key] = true
		}
		for _, l := range NewLoads(hosts, runners) {
			if l.Draining && l.UsedSlots > 0 {
				t.Fatalf("draining host %s was given work", l.Name)
			}
			if l.UsedVCPUs > l.VCPUs || l.UsedMemoryMiB > l.MemoryMiB || l.UsedSlots > l.Slots {
				t.Fatalf("host %s is over its capacity: %+v", l.Name, l)
			}
		}
	})
}

// A host where an image failed gets no runner with it while it pauses, and then one at a time; other images and hosts are
// not concerned.
func TestFailing(t *testing.T) {
	t.Parallel()
	of := func(id, profile string) firerunner.Runner {
		r := runner(id, 1, 64)
		r.Profile = profile
		return r
	}
	round := func(failing ...Failing) Round {
		return Round{
			Loads: NewLoads([]firerunner.Host{host("a", 4, 4096, 4), host("b", 8, 8192, 4)}, nil), Failing: failing,
			Image: func(profile string) string { return "image of " + profile },
		}
	}
	const paused = "its image failed there 3 times"
	hosts := func(decisions []Decision) (on []string) {
		for _, d := range decisions {
			on = append(on, d.Host)
		}
		return on
	}
	all := []firerunner.Runner{of("1", "x"), of("2", "x")}
	require.Equal(t, []string{"a", "a"}, hosts(Decide(round(), all)))
	require.Equal(t, []string{"b", "b"}, hosts(Decide(round(Failing{"image of x", "a", paused}), all)))
	require.Equal(t, []string{"a"}, hosts(Decide(round(Failing{"image of x", "a", paused}), []firerunner.Runner{of("3", "y")})), "another image")
	require.Equal(t, []string{"a", "b"}, hosts(Decide(round(Failing{Image: "image of x", Host: "a"}), all)), "one tries it")
	none := Decide(round(Failing{"image of x", "a", paused}, Failing{Image: "image of x", Host: "b"}), all)
	require.Equal(t, []string{"b", ""}, hosts(none))
	require.Equal(t, "1 host: its image failed there 3 times; 1 host: "+tried, none[1].Why)
}
