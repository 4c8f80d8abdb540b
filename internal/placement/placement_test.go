package placement

import (
	"fmt"
	"testing"

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

func TestDecide(t *testing.T) {
	draining := host("d", 8, 8192, 8)
	draining.Draining = true
	for name, tt := range map[string]struct {
		runners []firerunner.Runner
		hosts   []firerunner.Host
		want    []Decision
	}{
		"OK":         {[]firerunner.Runner{runner("a", 1, 1024)}, []firerunner.Host{host("h", 2, 4096, 2)}, []Decision{{"a", "h", ""}}},
		"BestFit":    {[]firerunner.Runner{runner("a", 1, 1024)}, []firerunner.Host{host("big", 8, 8192, 8), host("small", 1, 1024, 1)}, []Decision{{"a", "small", ""}}},
		"NoHost":     {[]firerunner.Runner{runner("a", 1, 1024)}, nil, []Decision{{"a", "", "there is no host"}}},
		"Draining":   {[]firerunner.Runner{runner("a", 1, 1024)}, []firerunner.Host{draining}, []Decision{{"a", "", "1 host: draining"}}},
		"NoSlot":     {[]firerunner.Runner{runner("a", 1, 64), runner("b", 1, 64)}, []firerunner.Host{host("h", 8, 8192, 1)}, []Decision{{"a", "h", ""}, {"b", "", "1 host: all 1 slots taken"}}},
		"NoMemory":   {[]firerunner.Runner{runner("a", 1, 3000), runner("b", 1, 3000)}, []firerunner.Host{host("h", 8, 4096, 4)}, []Decision{{"a", "h", ""}, {"b", "", "1 host: 1096 of 4096 MiB free, 3000 needed"}}},
		"NoVCPUs":    {[]firerunner.Runner{runner("a", 2, 64), runner("b", 1, 64)}, []firerunner.Host{host("h", 2, 4096, 4)}, []Decision{{"a", "h", ""}, {"b", "", "1 host: 0 of 2 vCPUs free, 1 needed"}}},
		"TooLarge":   {[]firerunner.Runner{runner("a", 16, 1024)}, []firerunner.Host{host("h", 2, 4096, 4), host("i", 2, 4096, 4)}, []Decision{{"a", "", "2 hosts: smaller than 16cpu-1gb even when empty"}}},
		"SkipsLarge": {[]firerunner.Runner{runner("a", 16, 1024), runner("b", 1, 1024)}, []firerunner.Host{host("h", 2, 4096, 4)}, []Decision{{"a", "", "1 host: smaller than 16cpu-1gb even when empty"}, {"b", "h", ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.want, Decide(tt.runners, NewLoads(tt.hosts, nil)))
		})
	}
}

func TestNewLoadsCountsReservations(t *testing.T) {
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
	rapid.Check(t, func(t *rapid.T) {
		var hosts []firerunner.Host
		for i := range rapid.IntRange(0, 5).Draw(t, "hosts") {
			hosts = append(hosts, host(fmt.Sprint("h", i), rapid.IntRange(1, 16).Draw(t, "cpus"), rapid.IntRange(512, 16384).Draw(t, "mem"), rapid.IntRange(0, 8).Draw(t, "slots")))
		}
		var runners []firerunner.Runner
		for i := range rapid.IntRange(0, 40).Draw(t, "runners") {
			runners = append(runners, runner(fmt.Sprint("r", i), rapid.IntRange(1, 8).Draw(t, "cpu"), rapid.IntRange(128, 8192).Draw(t, "m")))
		}
		decisions := Decide(runners, NewLoads(hosts, nil))
		if len(decisions) != len(runners) {
			t.Fatalf("%d decisions for %d runners", len(decisions), len(runners))
		}
		for i, d := range decisions {
			if (d.Host == "") == (d.Why == "") {
				t.Fatalf("decision %+v has neither host nor reason, or both", d)
			}
			runners[i].Host = d.Host
			if d.Host != "" {
				runners[i].State = firerunner.Placed
			}
		}
		for _, l := range NewLoads(hosts, runners) {
			if l.UsedVCPUs > l.VCPUs || l.UsedMemoryMiB > l.MemoryMiB || l.UsedSlots > l.Slots {
				t.Fatalf("host %s is over its capacity: %+v", l.Name, l)
			}
		}
	})
}
