package firerunner

import (
	"net/netip"
	"time"
)

// Host is a machine that carries microVMs.
type Host struct {
	Name      string
	Driver    string
	VCPUs     int // what placement may give away, over-commit included
	MemoryMiB int
	Slots     int      // most microVMs at once
	Labels    []string // what profiles may ask for, such as zone=a
	Addresses AddressPool
	Draining  bool // takes no new work, finishes the old
	// Controller is the one that has configured it last. A host that is a controller's own machine is its alone.
	Controller string

	// What was last seen of it.
	SeenAt  time.Time // its last sign of life; zero: never
	Trouble string    // why it takes no new work just now; empty: it does
	Lost    bool      // silent for so long that its microVMs count as lost
}

// AddressPool is the addresses that microVMs of one host may be given. The zero value has none: then the host's network
// (DHCP) or the driver gives each microVM its address.
type AddressPool struct {
	First, Last netip.Addr // both belong to the pool
	Bits        int        // length of the network's prefix
	Gateway     netip.Addr
	DNS         netip.Addr
}

// Empty reports whether there is no pool.
func (p AddressPool) Empty() bool { return !p.First.IsValid() }

// Free returns the lowest address that is not taken; ok = false if all are. It costs one look at taken for each address
// before.
func (p AddressPool) Free(taken map[netip.Addr]bool) (a netip.Addr, ok bool) {
	if p.Empty() {
		return netip.Addr{}, false
	}
	for a = p.First; a.IsValid() && a.Compare(p.Last) <= 0; a = a.Next() {
		if !taken[a] {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// Network is how a guest with this address of the pool sets up its interface; the zero value for no address.
func (p AddressPool) Network(a netip.Addr) GuestNetwork {
	if !a.IsValid() {
		return GuestNetwork{}
	}
	n := GuestNetwork{Address: netip.PrefixFrom(a, p.Bits).String()}
	if p.Gateway.IsValid() {
		n.Gateway = p.Gateway.String()
	}
	if p.DNS.IsValid() {
		n.DNS = p.DNS.String()
	}
	return n
}
