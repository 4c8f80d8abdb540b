package main

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"net"
	"net/netip"
	"time"

	"github.com/firerunner/firerunner"
)

// The few messages of DHCP that get a guest its address (RFC 2131, options in RFC 2132). Whoever is on the guest's
// network may answer, so an answer is as foreign as anything: parseDHCP bounds and checks it.

const (
	dhcpDiscover = 1
	dhcpOffer    = 2
	dhcpRequest  = 3
	dhcpACK      = 5
	dhcpNAK      = 6

	dhcpHead   = 240     // bytes before the options
	dhcpLeast  = 300     // the shortest message that every server takes: RFC 1542, 2.1
	dhcpAnswer = 1 << 11 // the longest answer that is read

	optionMask, optionRouter, optionDNS, optionMTU                   = 1, 3, 6, 26
	optionAddress, optionLease, optionKind, optionServer, optionList = 50, 51, 53, 54, 55
	optionEnd                                                        = 255
)

var dhcpCookie = [4]byte{99, 130, 83, 99}

// lease is what a server gives.
type lease struct {
	kind    byte
	address netip.Prefix
	server  netip.Addr
	gateway netip.Addr // may be invalid: none
	dns     netip.Addr // may be invalid: none
	mtu     int        // 0: not said
	time    time.Duration
}

// network is the lease as the agent's other parts know networks.
func (l lease) network() firerunner.GuestNetwork {
	n := firerunner.GuestNetwork{Address: l.address.String(), MTU: l.mtu}
	if l.gateway.IsValid() {
		n.Gateway = l.gateway.String()
	}
	if l.dns.IsValid() {
		n.DNS = l.dns.String()
	}
	return n
}

// dhcpMessage makes a message of the kind: a discover without more; a request for what a lease offers; or, when we
// have the lease already (renew), a request to keep it.
func dhcpMessage(kind byte, xid uint32, mac net.HardwareAddr, of lease, renew bool) []byte {
	b := make([]byte, dhcpHead, dhcpLeast)
	b[0], b[1], b[2] = 1, 1, 6 // a request, over Ethernet
	binary.BigEndian.PutUint32(b[4:], xid)
	copy(b[28:34], mac)
	copy(b[236:], dhcpCookie[:])
	b = append(b, optionKind, 1, kind)
	switch {
	case renew:
		copy(b[12:16], of.address.Addr().AsSlice())
	case kind == dhcpRequest:
		b = append(append(b, optionAddress, 4), of.address.Addr().AsSlice()...)
		b = append(append(b, optionServer, 4), of.server.AsSlice()...)
		fallthrough
	default:
		b[10] = 0x80 // answer by broadcast: we have no address yet
	}
	b = append(b, optionList, 5, optionMask, optionRouter, optionDNS, optionMTU, optionLease, optionEnd)
	return append(b, make([]byte, max(0, dhcpLeast-len(b)))...)
}

var errNotOurs = errors.New("not an answer to us")

// parseDHCP reads an answer to the request with that number, of that interface.
func parseDHCP(b []byte, xid uint32, mac net.HardwareAddr) (lease, error) {
	if len(b) < dhcpHead || len(b) > dhcpAnswer || b[0] != 2 || b[1] != 1 || b[2] != 6 || [4]byte(b[236:240]) != dhcpCookie ||
		binary.BigEndian.Uint32(b[4:]) != xid || net.HardwareAddr(b[28:34]).String() != mac.String() {
		return lease{}, errNotOurs
	}
	l, length := lease{}, 0
	for rest := b[dhcpHead:]; len(rest) > 0 && rest[0] != optionEnd; {
		if rest[0] == 0 { // padding
			rest = rest[1:]
			continue
		}
		if len(rest) < 2 || len(rest) < 2+int(rest[1]) {
			return lease{}, errors.New("an option is cut off")
		}
		option, value := rest[0], rest[2:2+int(rest[1])]
		rest = rest[2+len(value):]
		switch {
		case option == optionKind && len(value) == 1:
			l.kind = value[0]
		case option == optionMTU && len(value) == 2:
			l.mtu = int(binary.BigEndian.Uint16(value))
		case len(value) < 4:
		case option == optionMask:
			if mask := binary.BigEndian.Uint32(value); mask != 0 && mask == ^uint32(0)<<bits.TrailingZeros32(mask) {
				length = 32 - bits.TrailingZeros32(mask)
			}
		case option == optionRouter: // the first of a list is the best
			l.gateway = usable(value)
		case option == optionDNS:
			l.dns = usable(value)
		case option == optionServer:
			l.server = usable(value)
		case option == optionLease:
			l.time = time.Duration(binary.BigEndian.Uint32(value)) * time.Second
		}
	}
	if l.kind == dhcpNAK {
		return l, nil
	}
	address := usable(b[16:20])
	if l.kind != dhcpOffer && l.kind != dhcpACK || !address.IsValid() || !l.server.IsValid() || length == 0 {
		return lease{}, errors.New("neither an offer nor a lease of an address with a mask")
	}
	if l.mtu < 576 || l.mtu > 9000 {
		l.mtu = 0
	}
	l.address = netip.PrefixFrom(address, length)
	return l, nil
}

// usable is the address of one machine, or the invalid one. Link-local ones are where metadata services are.
func usable(b []byte) netip.Addr {
	a := netip.AddrFrom4([4]byte(b[:4]))
	if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || metadataNet().Contains(a) || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return netip.Addr{}
	}
	return a
}
