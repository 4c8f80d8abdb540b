package placement

import (
	"net/netip"

	"github.com/firerunner/firerunner"
)

// Load is a host and what is reserved on it now.
type Load struct {
	firerunner.Host
	UsedVCPUs     int
	UsedMemoryMiB int
	UsedSlots     int

	taken map[netip.Addr]bool // of its pool
	free  netip.Addr          // the next address of its pool; invalid: all are taken, or there is no pool
	kept  *want               // who it is held for; nil: everybody
}

// NewLoads counts what live runners reserve on each host. A runner on a host that is not known any more counts
// nowhere.
func NewLoads(hosts []firerunner.Host, runners []firerunner.Runner) []Load {
	loads := make([]Load, len(hosts))
	byName := make(map[string]*Load, len(hosts))
	for i, h := range hosts {
		loads[i] = Load{Host: h}
		byName[h.Name] = &loads[i]
	}
	for _, r := range runners {
		if l := byName[r.Host]; l != nil && r.Reserves() {
			l.count(r.Size, r.Address)
		}
	}
	for i := range loads {
		loads[i].free, _ = loads[i].Addresses.Free(loads[i].taken)
	}
	return loads
}

// add reserves for one more.
func (l *Load) add(s firerunner.Size, a netip.Addr) {
	l.count(s, a)
	if a.IsValid() {
		l.free, _ = l.Addresses.Free(l.taken)
	}
}

func (l *Load) count(s firerunner.Size, a netip.Addr) {
	l.UsedVCPUs += s.VCPUs
	l.UsedMemoryMiB += s.MemoryMiB
	l.UsedSlots++
	if a.IsValid() {
		if l.taken == nil {
			l.taken = map[netip.Addr]bool{}
		}
		l.taken[a] = true
	}
}

// left is how much of the scarcer resource the host would have left with one more of that size, as a share of all. Below
// zero it is what is missing.
func (l *Load) left(s firerunner.Size) float64 {
	cpu := float64(l.VCPUs-l.UsedVCPUs-s.VCPUs) / float64(max(l.VCPUs, 1))
	mem := float64(l.MemoryMiB-l.UsedMemoryMiB-s.MemoryMiB) / float64(max(l.MemoryMiB, 1))
	return min(cpu, mem)
}
