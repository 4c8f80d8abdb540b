package network

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/firerunner/firerunner"
)

// policy decides, for each name and each flow, whether the guest may have it. It is built once and only read.
type policy struct {
	public    bool
	refused   []netip.Prefix
	hostAddrs func() ([]netip.Addr, error)

	names  map[string]netip.Addr     // a route's name, lower case → its address
	routes map[netip.AddrPort]string // → where the host dials
}

// newPolicy checks the routes and gives each distinct name an address.
func newPolicy(cfg Config) (*policy, error) {
	if cfg.MTU < 576 || cfg.MTU > maxMTU {
		return nil, firerunner.Errorf(firerunner.Invalid, "network: MTU %d is not between 576 and %d", cfg.MTU, maxMTU)
	}
	p := &policy{
		public:    cfg.Policy.Public,
		refused:   append(nonPublic(), cfg.Deny...),
		hostAddrs: cfg.HostAddresses,
		names:     make(map[string]netip.Addr),
		routes:    make(map[netip.AddrPort]string),
	}
	free := netip.AddrFrom4([4]byte{10, 42, 0, firstRoute})
	for _, r := range cfg.Policy.Routes {
		if err := p.addRoute(r, &free); err != nil {
			return nil, firerunner.Errorf(firerunner.Invalid, "network route %q port %d: %w", r.Name, r.Port, err)
		}
	}
	return p, nil
}

// checkGuest refuses addresses for the guest that are another's.
func (p *policy) checkGuest(a netip.Addr, mac net.HardwareAddr) error {
	if len(mac) != 6 || mac[0]&1 != 0 || string(mac) == string(gatewayMAC()) {
		return firerunner.Errorf(firerunner.Invalid, "network: %s cannot be the guest's hardware address", mac)
	}
	taken := a == subnet().Addr() || a == gatewayAddr() || a == broadcastAddr()
	for _, route := range p.names {
		taken = taken || a == route
	}
	if !subnet().Contains(a) || taken {
		return firerunner.Errorf(firerunner.Invalid, "network: %s cannot be the guest's address: it is not a free one of %s", a, subnet())
	}
	return nil
}

// addRoute gives the route's name an address: the next free one, or the name itself if it is an address.
func (p *policy) addRoute(r firerunner.NetworkRoute, free *netip.Addr) error {
	name := strings.ToLower(strings.TrimSuffix(r.Name, "."))
	if r.Port < 1 || r.Port > 65535 {
		return fmt.Errorf("the port is not between 1 and 65535")
	}
	host, port, err := net.SplitHostPort(r.Dial)
	if err != nil {
		return fmt.Errorf("reading where to dial: %w", err)
	}
	if host == "" || port == "" || port == "0" {
		return fmt.Errorf("where to dial, %q, lacks a host or a port", r.Dial)
	}
	addr, known := p.names[name]
	if literal, err := netip.ParseAddr(name); err == nil {
		if reason := unroutable(literal); reason != "" {
			return fmt.Errorf("the name is an address that %s", reason)
		}
		addr, known = literal, true
	} else if !validName(name) || name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return fmt.Errorf("the name is not one that a guest would ask the network for")
	}
	if !known {
		if *free == broadcastAddr() {
			return fmt.Errorf("there are more names than addresses in %s", subnet())
		}
		addr = *free
		*free = free.Next()
		p.names[name] = addr
	}
	at := netip.AddrPortFrom(addr, uint16(r.Port))
	if _, double := p.routes[at]; double {
		return fmt.Errorf("there are two routes for it")
	}
	p.routes[at] = r.Dial
	return nil
}

// unroutable says why a literal address can be no route's, or nothing.
func unroutable(a netip.Addr) string {
	switch {
	case !a.Is4():
		return "is not IPv4"
	case a.IsLoopback(), a.IsUnspecified():
		return "a guest would look for in itself"
	case a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "belongs to no single host"
	case subnet().Contains(a):
		return "the guest's own network uses"
	}
	return ""
}

// tcp is where the host dials for a connection of the guest, or the reason to refuse it. routed says that the
// operator named the target, so that it may be private.
func (p *policy) tcp(dst netip.AddrPort) (dial string, routed bool, reason string) {
	if dial, ok := p.routes[dst]; ok {
		return dial, true, ""
	}
	return dst.String(), false, p.refusal(dst.Addr())
}

// udp is the reason to refuse a datagram, or nothing. Routes are for TCP only.
func (p *policy) udp(dst netip.AddrPort) string { return p.refusal(dst.Addr()) }

// refusal is the reason why the guest must not reach an address as a public one, or nothing.
func (p *policy) refusal(a netip.Addr) string {
	if !p.public {
		return "no route"
	}
	if !a.Is4() || !a.IsGlobalUnicast() {
		return "not a public address"
	}
	for _, r := range p.refused {
		if r.Contains(a) {
			return "not a public address"
		}
	}
	own, err := p.hostAddrs()
	if err != nil {
		return "the host's own addresses are unknown"
	}
	for _, h := range own {
		if h.Unmap() == a {
			return "the host's own address"
		}
	}
	return ""
}

// validName accepts what can be a host's name: the guest's questions go to the host's resolver, which must not
// be fed anything else.
func validName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}
