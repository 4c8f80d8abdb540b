package config

import (
	"fmt"
	"net/netip"

	"github.com/firerunner/firerunner"
)

// overlap is two hosts whose pools have addresses in common.
type overlap struct {
	one, other  Host
	index       int // of other, in the list
	first, last netip.Addr
	certain     bool // both say that they are on one network
}

func (o overlap) String() string {
	return fmt.Sprintf("hosts %s and %s both give away %s to %s", o.one.Name, o.other.Name, o.first, o.last)
}

// overlaps finds pools that have addresses in common, unless their hosts say that they are on two networks. What a bridge
// leads to is not seen from here: on one network two microVMs would have one address, and neither could be reached for
// long; behind a router in each host it is in order.
func (c *Config) overlaps() []overlap {
	var found []overlap
	pools := make([]firerunner.AddressPool, len(c.Hosts))
	for j, other := range c.Hosts {
		theirs, err := other.Addresses.pool()
		if err != nil || theirs.Empty() { // what is wrong with it is said elsewhere
			continue
		}
		pools[j] = theirs
		for i, one := range c.Hosts[:j] {
			ours := pools[i]
			if ours.Empty() || theirs.First.BitLen() != ours.First.BitLen() {
				continue
			}
			o := overlap{one: one, other: other, index: j, first: ours.First, last: ours.Last}
			if theirs.First.Compare(o.first) > 0 {
				o.first = theirs.First
			}
			if theirs.Last.Compare(o.last) < 0 {
				o.last = theirs.Last
			}
			a, b := one.Addresses.Network, other.Addresses.Network
			if o.first.Compare(o.last) > 0 || a != "" && b != "" && a != b {
				continue
			}
			o.certain = a != "" && a == b
			found = append(found, o)
		}
	}
	return found
}

// pools refuses pools that overlap on one network.
func (k *checker) pools() {
	for _, o := range k.overlaps() {
		if o.certain {
			k.problem(k.nearestGiven(hostKey(o.index)+".addresses"), "%s on network %s: two microVMs would have one address", o, short(o.other.Addresses.Network)).
				Hint = "give each host addresses of its own"
		}
	}
}

// poolWarnings are the overlaps that may be in order.
func (c *Config) poolWarnings() (all Problems) {
	for _, o := range c.overlaps() {
		if !o.certain {
			all = append(all, c.at(hostKey(o.index)+".addresses", "%s: if they are on one network, two microVMs will have one address", o).
				withHint("give each host addresses of its own; if these are two networks, name them in addresses.network"))
		}
	}
	return all
}
