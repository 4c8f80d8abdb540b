package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// openMetadata brings up the interface that leads to the metadata service, with its address.
func openMetadata(link net.Interface) error {
	n, err := dialNetlink()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer n.close()
	if err := n.up(link); err != nil {
		return err
	}
	const once = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	if err := n.do(unix.RTM_NEWADDR, once, addressMessage(link.Index, netip.MustParsePrefix(metadataOwn))); err != nil {
		return fmt.Errorf("give %s to %s: %w", metadataOwn, link.Name, err)
	}
	return nil
}

// closeMetadata makes the metadata service unreachable for everybody, before a job can look for it: the interface
// goes down, its address goes, and the route says that there is no way. The interface is what counts. A route alone
// would not do: a process may bind a socket to an interface, and then the kernel asks no route.
func closeMetadata(link net.Interface) error {
	n, err := dialNetlink()
	if err != nil {
		return fmt.Errorf("close the metadata service: open netlink: %w", err)
	}
	defer n.close()
	if err := n.do(unix.RTM_NEWLINK, 0, linkMessage(link.Index, false, nil, 0)); err != nil {
		return fmt.Errorf("close the metadata service: take down %s: %w", link.Name, err)
	}
	err = n.do(unix.RTM_DELADDR, 0, addressMessage(link.Index, netip.MustParsePrefix(metadataOwn)))
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("close the metadata service: take the address from %s: %w", link.Name, err)
	}
	return n.unreachable(metadataNet())
}

// blockMetadata closes it on a system that is not ours to change: the one address has no route any more. If there is
// an interface that leads there and nowhere else, that goes down too.
func blockMetadata() error {
	n, err := dialNetlink()
	if err != nil {
		return fmt.Errorf("close the metadata service: open netlink: %w", err)
	}
	defer n.close()
	all, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("close the metadata service: list the network interfaces: %w", err)
	}
	for _, link := range all {
		if link.HardwareAddr.String() != metadataMAC {
			continue
		}
		if err := n.do(unix.RTM_NEWLINK, 0, linkMessage(link.Index, false, nil, 0)); err != nil {
			return fmt.Errorf("close the metadata service: take down %s: %w", link.Name, err)
		}
	}
	return n.unreachable(netip.PrefixFrom(netip.MustParseAddr(metadataAddress), 32))
}

func (n *netlink) unreachable(to netip.Prefix) error {
	if err := n.do(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, unreachableMessage(to)); err != nil {
		return fmt.Errorf("close the metadata service: route %s to nowhere: %w", to, err)
	}
	return nil
}

// unreachableMessage is a route to nowhere. Its scope is the narrowest, because a socket with SO_DONTROUTE asks for
// narrow ones only, and would pass a route of any other scope by.
func unreachableMessage(to netip.Prefix) []byte {
	b := make([]byte, unix.SizeofRtMsg)
	b[0], b[1] = family(to.Addr()), byte(to.Bits())
	b[4], b[5], b[6], b[7] = unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_HOST, unix.RTN_UNREACHABLE
	return attr(b, unix.RTA_DST, to.Addr().AsSlice())
}
