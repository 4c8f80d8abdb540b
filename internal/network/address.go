package network

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
)

const (
	nicID      = 1
	dnsPort    = 53
	firstRoute = 8 // routes get the subnet's addresses from .8 on

	// A frame costs about the same whatever it holds, above all in an emulated guest, and no real wire has to
	// carry it. Beyond this size little is gained, and few segments fit into a window.
	defaultMTU = 9000
	maxMTU     = 65520
)

// The guest's subnet. It exists only between the guest and this process, so it may overlap with anything.
func subnet() netip.Prefix      { return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, 0, 0}), 24) }
func gatewayAddr() netip.Addr   { return netip.AddrFrom4([4]byte{10, 42, 0, 1}) }
func defaultGuest() netip.Addr  { return netip.AddrFrom4([4]byte{10, 42, 0, 2}) }
func broadcastAddr() netip.Addr { return netip.AddrFrom4([4]byte{10, 42, 0, 255}) }

// Locally administered addresses, the same for every microVM (see Guest).
func gatewayMAC() tcpip.LinkAddress { return "\x52\x54\x00\x42\x00\x01" }
func defaultMAC() tcpip.LinkAddress { return "\x52\x54\x00\x42\x00\x02" }

// nonPublic are the IPv4 ranges that are not the public Internet.
// Source: https://www.iana.org/assignments/iana-ipv4-special-registry (RFC 6890), and multicast.
func nonPublic() []netip.Prefix {
	ranges := []string{
		"0.0.0.0/8",       // this network
		"10.0.0.0/8",      // private
		"100.64.0.0/10",   // carrier NAT; one cloud's metadata address too
		"127.0.0.0/8",     // loopback
		"169.254.0.0/16",  // link-local; metadata
		"172.16.0.0/12",   // private
		"192.0.0.0/24",    // protocol assignments; one cloud's metadata address too
		"192.0.2.0/24",    // documentation
		"192.88.99.0/24",  // 6to4 relays, deprecated
		"192.168.0.0/16",  // private
		"198.18.0.0/15",   // benchmarks
		"198.51.100.0/24", // documentation
		"203.0.113.0/24",  // documentation
		"224.0.0.0/4",     // multicast
		"240.0.0.0/4",     // reserved; broadcast

		// Public by number, but the host's own service to its virtual machines on Azure (WireServer).
		// https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
		"168.63.129.16/32",
	}
	prefixes := make([]netip.Prefix, len(ranges))
	for i, r := range ranges {
		prefixes[i] = netip.MustParsePrefix(r)
	}
	return prefixes
}

// fromStack is an address as the stack has it.
func fromStack(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr.Unmap()
}

// toStack is an address as the stack wants it.
func toStack(a netip.Addr) tcpip.Address { return tcpip.AddrFrom4(a.As4()) }
