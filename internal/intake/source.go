package intake

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// mostForwarded bounds how many hops of X-Forwarded-For are walked.
const mostForwarded = 16

// source is the address that a delivery comes from: the peer, or, where the peer is a trusted proxy, the last
// address in X-Forwarded-For that no trusted proxy has. Everything left of that one is hearsay. It is invalid where
// it cannot be told.
func (in *Intake) source(r *http.Request) netip.Addr {
	addr := peer(r.RemoteAddr)
	if !contains(in.cfg.TrustedProxies, addr) {
		return addr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	slices.Reverse(hops)
	for i, hop := range hops {
		hop = strings.TrimSpace(hop)
		if hop == "" && len(hops) == 1 {
			return addr // the proxy itself asks
		}
		if addr = peer(hop); i == mostForwarded || !addr.IsValid() {
			return netip.Addr{}
		}
		if !contains(in.cfg.TrustedProxies, addr) {
			break
		}
	}
	return addr
}

// allowed reports whether a source may deliver.
func (in *Intake) allowed(source netip.Addr) bool {
	return len(in.cfg.AllowedNetworks) == 0 || contains(in.cfg.AllowedNetworks, source)
}

// peer reads an address with or without a port, in the form that prefixes are compared with.
func peer(text string) netip.Addr {
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
	if err != nil {
		both, err := netip.ParseAddrPort(text)
		if err != nil {
			return netip.Addr{}
		}
		addr = both.Addr()
	}
	return addr.Unmap().WithZone("")
}

func contains(networks []netip.Prefix, addr netip.Addr) bool {
	return addr.IsValid() && slices.ContainsFunc(networks, func(p netip.Prefix) bool {
		if p.Addr().Is4In6() && p.Bits() >= 96 { // ::ffff:10.0.0.0/104 means 10.0.0.0/8
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		return p.Contains(addr)
	})
}
