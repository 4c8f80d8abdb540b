package network

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// rawGuest is a dishonest guest: it writes the frames that it likes.
type rawGuest struct {
	t    *testing.T
	n    *Network
	conn net.Conn
	in   *bufio.Reader
}

func newRaw(t *testing.T, n *Network) *rawGuest {
	far, _ := serve(t, n)
	require.NoError(t, far.SetDeadline(time.Now().Add(patience)))
	return &rawGuest{t: t, n: n, conn: far, in: bufio.NewReader(far)}
}

func (g *rawGuest) send(frame []byte) {
	g.t.Helper()
	_, err := g.conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...))
	require.NoError(g.t, err)
}

func (g *rawGuest) read() []byte {
	g.t.Helper()
	head := make([]byte, 4)
	_, err := io.ReadFull(g.in, head)
	require.NoError(g.t, err)
	frame := make([]byte, binary.BigEndian.Uint32(head))
	_, err = io.ReadFull(g.in, frame)
	require.NoError(g.t, err)
	return frame
}

// silent checks that nothing has been answered so far: the next frame is the answer to a question put now.
func (g *rawGuest) silent() {
	g.t.Helper()
	g.send(arp(defaultGuest(), gatewayAddr()))
	require.Equal(g.t, header.ARPProtocolNumber, header.Ethernet(g.read()).Type())
}

func ethernet(src, dst tcpip.LinkAddress, kind tcpip.NetworkProtocolNumber, payload []byte) []byte {
	frame := make([]byte, header.EthernetMinimumSize, header.EthernetMinimumSize+len(payload))
	header.Ethernet(frame).Encode(&header.EthernetFields{SrcAddr: src, DstAddr: dst, Type: kind})
	return append(frame, payload...)
}

func arp(sender, target netip.Addr) []byte {
	p := header.ARP(make([]byte, header.ARPSize))
	p.SetIPv4OverEthernet()
	p.SetOp(header.ARPRequest)
	copy(p.HardwareAddressSender(), defaultMAC())
	copy(p.ProtocolAddressSender(), sender.AsSlice())
	copy(p.ProtocolAddressTarget(), target.AsSlice())
	return ethernet(defaultMAC(), header.EthernetBroadcastAddress, header.ARPProtocolNumber, p)
}

func ip(src, dst string, proto tcpip.TransportProtocolNumber, payload []byte) []byte {
	p := header.IPv4(make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+len(payload)))
	p.Encode(&header.IPv4Fields{
		TotalLength: uint16(header.IPv4MinimumSize + len(payload)), TTL: 64, Protocol: uint8(proto),
		SrcAddr: toStack(netip.MustParseAddr(src)), DstAddr: toStack(netip.MustParseAddr(dst)),
	})
	p.SetChecksum(^p.CalculateChecksum())
	return ethernet(defaultMAC(), gatewayMAC(), header.IPv4ProtocolNumber, append(p, payload...))
}

func segment(dst string, fields header.TCPFields) []byte {
	p := header.TCP(make([]byte, header.TCPMinimumSize))
	fields.SrcPort, fields.DstPort, fields.WindowSize, fields.DataOffset = 40000, 80, 65535, header.TCPMinimumSize
	p.Encode(&fields)
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, toStack(defaultGuest()), toStack(netip.MustParseAddr(dst)), uint16(len(p)))
	p.SetChecksum(^p.CalculateChecksum(sum))
	return p
}

func datagram(port uint16) []byte {
	p := header.UDP(make([]byte, header.UDPMinimumSize+1))
	p.Encode(&header.UDPFields{SrcPort: 40000, DstPort: port, Length: uint16(len(p))})
	return p // without a checksum, which is allowed
}

func ping(kind header.ICMPv4Type) []byte {
	p := header.ICMPv4(make([]byte, header.ICMPv4MinimumSize+8))
	p.SetType(kind)
	p.SetChecksum(^checksum.Checksum(p, 0))
	return p
}

func TestSpoofedIsDropped(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, Config{Policy: route("gitlab.test", 80, listen(t, echo))})
	g := newRaw(t, n)
	syn := segment("10.42.0.8", header.TCPFields{SeqNum: 1, Flags: header.TCPFlagSyn})
	sources := []string{"10.42.0.1", "10.42.0.3", "10.42.0.8", "0.0.0.0", "127.0.0.1", "192.168.1.1", "8.8.8.8"}
	for _, src := range sources {
		g.send(ip(src, "10.42.0.8", header.TCPProtocolNumber, syn))
		g.send(ip(src, "10.42.0.1", header.UDPProtocolNumber, datagram(53)))
		g.send(ip(src, "10.42.0.1", header.ICMPv4ProtocolNumber, ping(header.ICMPv4Echo)))
	}
	other := ip("10.42.0.2", "10.42.0.8", header.TCPProtocolNumber, syn)
	copy(other[6:], "\x52\x54\x00\x00\x00\x09") // another interface's address
	g.send(other)
	g.silent()
	require.EqualValues(t, 3*len(sources)+1, n.Stats().Spoofed)
	require.Zero(t, n.Stats().TCPConns)
}

// What is not for a single host, or not TCP, UDP or a ping of the gateway, is not carried at all.
func TestUncarried(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, Config{})
	g := newRaw(t, n)
	targets := []string{"127.0.0.1", "127.255.0.9", "0.0.0.0", "255.255.255.255", "224.0.0.251", "10.42.0.255", "10.42.0.2"}
	for _, dst := range targets {
		g.send(ip("10.42.0.2", dst, header.UDPProtocolNumber, datagram(67)))
		g.send(ip("10.42.0.2", dst, header.TCPProtocolNumber, segment(dst, header.TCPFields{Flags: header.TCPFlagSyn})))
		g.send(ip("10.42.0.2", dst, header.ICMPv4ProtocolNumber, ping(header.ICMPv4Echo)))
	}
	g.send(ip("10.42.0.2", "8.8.8.8", header.ICMPv4ProtocolNumber, ping(header.ICMPv4Echo)))
	g.send(ip("10.42.0.2", "10.42.0.1", header.ICMPv4ProtocolNumber, ping(header.ICMPv4DstUnreachable)))
	g.send(ip("10.42.0.2", "10.42.0.1", header.ICMPv4ProtocolNumber, []byte{8}))
	g.send(ip("10.42.0.2", "10.42.0.1", 2, make([]byte, 8)))  // IGMP
	g.send(ip("10.42.0.2", "10.42.0.1", 41, make([]byte, 8))) // IPv6 in IPv4
	g.send(ethernet(defaultMAC(), gatewayMAC(), header.IPv6ProtocolNumber, make([]byte, 60)))
	g.silent()
	require.EqualValues(t, 3*len(targets)+5, n.Stats().Dropped)
}

func TestPing(t *testing.T) {
	t.Parallel()
	g := newRaw(t, newNetwork(t, Config{}))
	g.send(ip("10.42.0.2", "10.42.0.1", header.ICMPv4ProtocolNumber, ping(header.ICMPv4Echo)))
	reply := header.IPv4(g.read()[header.EthernetMinimumSize:])
	require.Equal(t, header.ICMPv4EchoReply, header.ICMPv4(reply.Payload()).Type())
}

// Every address of the subnet is here but the guest's own: else it would take it for a duplicate.
func TestARP(t *testing.T) {
	t.Parallel()
	g := newRaw(t, newNetwork(t, Config{}))
	for _, target := range []string{"10.42.0.1", "10.42.0.8", "10.42.0.200"} {
		g.send(arp(defaultGuest(), netip.MustParseAddr(target)))
		frame := g.read()
		reply := header.ARP(frame[header.EthernetMinimumSize:])
		require.Equal(t, header.ARPReply, reply.Op())
		require.Equal(t, target, netip.AddrFrom4([4]byte(reply.ProtocolAddressSender())).String())
		require.EqualValues(t, gatewayMAC(), reply.HardwareAddressSender())
		require.Equal(t, defaultMAC(), header.Ethernet(frame).DestinationAddress())
	}
	for _, target := range []string{"10.42.0.2", "10.42.0.0", "10.42.0.255", "192.168.1.1", "127.0.0.1"} {
		g.send(arp(netip.IPv4Unspecified(), netip.MustParseAddr(target)))
		g.silent()
	}
}

// Frames of any length that QEMU could send do no harm, and the next good one is understood.
func TestMalformedFrames(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, Config{MTU: 1500})
	g := newRaw(t, n)
	g.send(nil)
	g.send(make([]byte, 1))
	g.send(make([]byte, 13))
	g.send(make([]byte, 1515)) // longer than the MTU allows
	g.send(make([]byte, qemuMax))
	good := ip("10.42.0.2", "10.42.0.8", header.TCPProtocolNumber, segment("10.42.0.8", header.TCPFields{}))
	for size := header.EthernetMinimumSize; size < header.EthernetMinimumSize+header.IPv4MinimumSize; size++ {
		g.send(good[:size])
	}
	g.silent()
	require.EqualValues(t, 5+header.IPv4MinimumSize, n.Stats().Malformed)
}

// A guest that leaves a handshake half open does not hold up Close.
func TestCloseDuringHandshake(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, Config{Policy: route("gitlab.test", 80, listen(t, echo))})
	g := newRaw(t, n)
	g.send(ip("10.42.0.2", "10.42.0.8", header.TCPProtocolNumber, segment("10.42.0.8", header.TCPFields{SeqNum: 1, Flags: header.TCPFlagSyn})))
	reply := header.TCP(header.IPv4(g.read()[header.EthernetMinimumSize:]).Payload())
	require.Equal(t, header.TCPFlagSyn|header.TCPFlagAck, reply.Flags())
	require.NoError(t, n.Close())
}

// A guest that never takes what it asked for loses the connection, and what it held.
func TestUnacknowledgedEnds(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, Config{
		Policy: route("gitlab.test", 80, listen(t, func(conn *net.TCPConn) {
			_, _ = conn.Write(make([]byte, 4096))
			conn.Close()
		})),
		CloseTimeout: 50 * time.Millisecond,
	})
	g := newRaw(t, n)
	g.send(ip("10.42.0.2", "10.42.0.8", header.TCPProtocolNumber, segment("10.42.0.8", header.TCPFields{SeqNum: 1, Flags: header.TCPFlagSyn})))
	reply := header.TCP(header.IPv4(g.read()[header.EthernetMinimumSize:]).Payload())
	g.send(ip("10.42.0.2", "10.42.0.8", header.TCPProtocolNumber, segment("10.42.0.8", header.TCPFields{
		SeqNum: 2, AckNum: reply.SequenceNumber() + 1, Flags: header.TCPFlagAck | header.TCPFlagFin,
	})))
	for {
		last := header.TCP(header.IPv4(g.read()[header.EthernetMinimumSize:]).Payload())
		if last.Flags().Contains(header.TCPFlagRst) {
			break
		}
	}
	require.Eventually(t, func() bool { return len(n.tcpSlots) == 0 }, patience, time.Millisecond)
	require.Empty(t, n.stack.CleanupEndpoints())
}

// QEMU that stops reading while there is something to send does not hold up Close.
func TestCloseWhileWriting(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, Config{})
	g := newRaw(t, n)
	// Questions whose answers nobody reads fill the socket. The writes stop when both directions are full.
	require.NoError(t, g.conn.SetWriteDeadline(time.Now().Add(300*time.Millisecond)))
	ask := arp(defaultGuest(), gatewayAddr())
	ask = append(binary.BigEndian.AppendUint32(nil, uint32(len(ask))), ask...)
	var err error
	for err == nil {
		_, err = g.conn.Write(ask)
	}
	require.NoError(t, n.Close())
}
