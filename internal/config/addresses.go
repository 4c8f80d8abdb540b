package config

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/firerunner/firerunner"
)

// Addresses is the pool that the microVMs of one host get their addresses from: a whole network (range), or the addresses
// from first to last. Nothing: the host's network gives them (DHCP).
type Addresses struct {
	Range   string `yaml:"range"` // such as 10.42.0.0/24: all but the gateway, the network's own and the broadcast address
	First   string `yaml:"first"`
	Last    string `yaml:"last"`
	Prefix  int    `yaml:"prefix"` // length of the network's prefix, with first and last
	Gateway string `yaml:"gateway"`
	DNS     string `yaml:"dns"`
	// Network names what the pool belongs to. Pools of one network must not overlap, those of two may; of pools without a
	// name nobody knows.
	Network string `yaml:"network"`
}

// poolMost is the largest pool: more than a host can carry.
const poolMost = 1 << 16

// pool checks and converts.
func (a Addresses) pool() (p firerunner.AddressPool, err error) {
	if a == (Addresses{}) {
		return p, nil
	}
	for _, text := range []struct {
		name string
		from string
		to   *netip.Addr
	}{{"first", a.First, &p.First}, {"last", a.Last, &p.Last}, {"gateway", a.Gateway, &p.Gateway}, {"dns", a.DNS, &p.DNS}} {
		if text.from == "" {
			continue
		}
		if *text.to, err = netip.ParseAddr(text.from); err != nil || text.to.Zone() != "" {
			return firerunner.AddressPool{}, fmt.Errorf("%s %q is not an address", text.name, short(text.from))
		}
		*text.to = text.to.Unmap()
	}
	var network netip.Prefix
	switch {
	case a.Range != "" && (a.First != "" || a.Last != "" || a.Prefix != 0):
		return firerunner.AddressPool{}, errors.New("range excludes first, last and prefix")
	case a.Range != "":
		network, err = netip.ParsePrefix(a.Range)
		if err != nil || network != network.Masked() {
			return firerunner.AddressPool{}, fmt.Errorf("range %q is not a network such as 10.42.0.0/24", short(a.Range))
		}
		p.First, p.Last = usable(network)
		// A gateway at either end, where it usually is, makes the pool one shorter.
		for _, own := range []netip.Addr{p.Gateway, p.DNS} {
			if own == p.First {
				p.First = p.First.Next()
			}
			if own == p.Last {
				p.Last = p.Last.Prev()
			}
		}
	case !p.First.IsValid() || !p.Last.IsValid() || a.Prefix == 0:
		return firerunner.AddressPool{}, errors.New("needs range, or first, last and prefix")
	default:
		if network, err = p.First.Prefix(a.Prefix); err != nil {
			return firerunner.AddressPool{}, fmt.Errorf("prefix %d does not fit %s", a.Prefix, p.First)
		}
	}
	p.Bits = network.Bits()
	return p, checkPool(p, network)
}

func checkPool(p firerunner.AddressPool, network netip.Prefix) error {
	first, last := usable(network)
	switch {
	case !network.Contains(p.Last) || p.First.Compare(p.Last) > 0:
		return fmt.Errorf("from %s to %s is no part of network %s", p.First, p.Last, network)
	case p.First.Compare(first) < 0 || p.Last.Compare(last) > 0:
		return fmt.Errorf("%s to %s holds the network's own or its broadcast address", p.First, p.Last)
	case distanceOf(p.First, p.Last) >= poolMost:
		return fmt.Errorf("more than %d addresses", poolMost)
	case p.Gateway.IsValid() && !network.Contains(p.Gateway):
		return fmt.Errorf("gateway %s is not in network %s", p.Gateway, network)
	case isAmong(p.Gateway, p.First, p.Last):
		return fmt.Errorf("gateway %s would be given to a microVM: give first and last around it", p.Gateway)
	case isAmong(p.DNS, p.First, p.Last):
		return fmt.Errorf("dns %s would be given to a microVM: give first and last around it", p.DNS)
	}
	return nil
}

// usable returns the first and the last address of a network that a machine may have.
func usable(network netip.Prefix) (first, last netip.Addr) {
	first = network.Masked().Addr()
	bytes := first.AsSlice()
	for bit := network.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 1 << (7 - bit%8)
	}
	last, _ = netip.AddrFromSlice(bytes)
	if first.BitLen()-network.Bits() < 2 { // a /31 or /32 has no own and no broadcast address
		return first, last
	}
	if first.Is4() {
		last = last.Prev()
	}
	return first.Next(), last
}

// distanceOf is how many addresses lie between two of one family; poolMost if more.
func distanceOf(first, last netip.Addr) uint64 {
	a, b := first.As16(), last.As16()
	if string(a[:8]) != string(b[:8]) {
		return poolMost
	}
	return binary.BigEndian.Uint64(b[8:]) - binary.BigEndian.Uint64(a[8:])
}

func isAmong(a, first, last netip.Addr) bool {
	return a.IsValid() && a.Compare(first) >= 0 && a.Compare(last) <= 0
}
