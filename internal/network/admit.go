package network

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// admit is the first look at a frame of the guest, before the stack spends anything on it. Only what the guest
// can honestly send gets in: IPv4 from its own two addresses, TCP and UDP to single hosts, and a ping of the
// gateway. ARP is answered here: the stack, which must listen on every address, would answer for the guest's
// own as well.
func (n *Network) admit(frame []byte) (deliver bool, reply []byte) {
	eth := header.Ethernet(frame)
	if eth.SourceAddress() != n.guestMAC() {
		n.count.spoofed.Add(1)
		return false, nil
	}
	switch eth.Type() {
	case header.IPv4ProtocolNumber:
		return eth.DestinationAddress() == gatewayMAC() && n.admitIPv4(frame[header.EthernetMinimumSize:]), nil
	case header.ARPProtocolNumber:
		return false, n.answerARP(frame[header.EthernetMinimumSize:])
	}
	return false, nil // IPv6, VLANs and the rest are not offered; an ordinary guest tries IPv6, so it is no news
}

func (n *Network) admitIPv4(packet []byte) bool {
	ip := header.IPv4(packet)
	if len(packet) < header.IPv4MinimumSize || packet[0]>>4 != 4 || !ip.IsValid(len(packet)) {
		n.count.malformed.Add(1)
		return false
	}
	src, dst := fromStack(ip.SourceAddress()), fromStack(ip.DestinationAddress())
	if src != n.cfg.Guest {
		n.count.spoofed.Add(1)
		return false
	}
	if dst == n.cfg.Guest || dst == broadcastAddr() || dst.IsLoopback() || dst.IsUnspecified() || dst.IsMulticast() ||
		dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		n.count.dropped.Add(1)
		return false
	}
	switch ip.TransportProtocol() {
	case header.TCPProtocolNumber, header.UDPProtocolNumber:
		return true
	case header.ICMPv4ProtocolNumber:
		payload := packet[ip.HeaderLength():]
		if dst == gatewayAddr() && !ip.More() && ip.FragmentOffset() == 0 &&
			len(payload) >= header.ICMPv4MinimumSize && header.ICMPv4(payload).Type() == header.ICMPv4Echo {
			return true
		}
	}
	n.count.dropped.Add(1)
	return false
}

// answerARP says that every address of the subnet but the guest's is here, so that a connection to an address
// that nobody has fails at once instead of after the guest's own timeout. The reply is a whole frame, with QEMU's
// length. A guest's probe for its own address is not answered.
func (n *Network) answerARP(packet []byte) []byte {
	ask := header.ARP(packet)
	if !ask.IsValid() || ask.Op() != header.ARPRequest {
		return nil
	}
	target, _ := netip.AddrFromSlice(ask.ProtocolAddressTarget())
	if !subnet().Contains(target) || target == n.cfg.Guest || target == subnet().Addr() || target == broadcastAddr() {
		return nil
	}
	reply := make([]byte, linkHeader+header.ARPSize)
	binary.BigEndian.PutUint32(reply, header.EthernetMinimumSize+header.ARPSize)
	header.Ethernet(reply[lengthSize:]).Encode(&header.EthernetFields{
		SrcAddr: gatewayMAC(), DstAddr: n.guestMAC(), Type: header.ARPProtocolNumber,
	})
	answer := header.ARP(reply[linkHeader:])
	answer.SetIPv4OverEthernet()
	answer.SetOp(header.ARPReply)
	copy(answer.HardwareAddressSender(), gatewayMAC())
	copy(answer.ProtocolAddressSender(), target.AsSlice())
	copy(answer.HardwareAddressTarget(), n.guestMAC())
	copy(answer.ProtocolAddressTarget(), ask.ProtocolAddressSender())
	return reply
}
