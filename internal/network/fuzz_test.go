package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/firerunner/firerunner"
)

// script is a connection from which fixed bytes are read, and where nobody reads what is written.
type script struct{ *bytes.Reader }

func (script) Write(p []byte) (int, error)      { return len(p), nil }
func (script) Close() error                     { return nil }
func (script) LocalAddr() net.Addr              { return nil }
func (script) RemoteAddr() net.Addr             { return nil }
func (script) SetDeadline(time.Time) error      { return nil }
func (script) SetReadDeadline(time.Time) error  { return nil }
func (script) SetWriteDeadline(time.Time) error { return nil }

// FuzzFrames feeds the network what a hostile guest, or something that is not QEMU, could write. It must neither
// crash nor carry anything: the policy is empty.
func FuzzFrames(f *testing.F) {
	framed := func(frames ...[]byte) []byte {
		var all []byte
		for _, frame := range frames {
			all = append(binary.BigEndian.AppendUint32(all, uint32(len(frame))), frame...)
		}
		return all
	}
	f.Add([]byte{})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 9})
	f.Add(framed(arp(defaultGuest(), gatewayAddr())))
	f.Add(framed(ip("10.42.0.2", "10.42.0.1", header.ICMPv4ProtocolNumber, ping(header.ICMPv4Echo))))
	f.Add(framed(ip("10.42.0.2", "10.42.0.1", header.UDPProtocolNumber, datagram(53))))
	f.Add(framed(
		ip("10.42.0.2", "10.42.0.9", header.TCPProtocolNumber, segment("10.42.0.9", header.TCPFields{SeqNum: 1, Flags: header.TCPFlagSyn})),
		ip("10.42.0.2", "10.42.0.1", header.UDPProtocolNumber, datagram(123))))
	f.Fuzz(func(t *testing.T, stream []byte) {
		n, err := New(Config{})
		require.NoError(t, err)
		_ = n.Serve(context.Background(), script{bytes.NewReader(stream)})
		require.NoError(t, n.Close())
		stats := n.Stats()
		require.Zero(t, stats.TCPConns+stats.UDPFlows)
	})
}

// A length is believed only up to what QEMU can send, so that four bytes never cost more than one frame.
func TestFrameLengthAllocatesNothing(t *testing.T) {
	var before, after runtime.MemStats
	bad := 0
	frames := newFrameReader(bytes.NewReader([]byte{0x7f, 0xff, 0xff, 0xff}), 1514, func() { bad++ })
	runtime.ReadMemStats(&before)
	_, err := frames.next()
	runtime.ReadMemStats(&after)
	require.ErrorIs(t, err, errFrameTooLong)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

// FuzzDNS: whatever is asked, an answer is small, well formed, and names only what the guest may reach.
func FuzzDNS(f *testing.F) {
	pack := func(name string, kind dnsmessage.Type) []byte { return query(f, name, kind) }
	f.Add(pack("gitlab.test", dnsmessage.TypeA))
	f.Add(pack("example.com", dnsmessage.TypeA))
	f.Add(pack("rebind.test", dnsmessage.TypeALL))
	f.Add(pack("1.0.42.10.in-addr.arpa", dnsmessage.TypePTR))
	f.Add([]byte{0, 7, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc0, 0x0c})
	policy := route("gitlab.test", 443, "127.0.0.1:1")
	policy.Public = true
	n, err := New(Config{
		Policy: policy, Resolver: everything{},
		HostAddresses: func() ([]netip.Addr, error) { return nil, nil },
	})
	require.NoError(f, err)
	f.Cleanup(func() { n.Close() })
	f.Fuzz(func(t *testing.T, asked []byte) {
		reply := n.dns.answer(context.Background(), asked)
		if reply == nil {
			return
		}
		require.LessOrEqual(t, len(reply), 512)
		var msg dnsmessage.Message
		require.NoError(t, msg.Unpack(reply))
		require.True(t, msg.Response)
		for _, a := range msg.Answers {
			addr := netip.AddrFrom4(a.Body.(*dnsmessage.AResource).A)
			require.Contains(t, []string{"10.42.0.8", somewhere}, addr.String())
		}
	})
}

// everything is a resolver for which every name exists, in the private network too.
type everything struct{}

func (everything) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if name := host[:len(host)-1]; !validName(name) {
		return nil, firerunner.Errorf(firerunner.Internal, "the resolver was asked for %q", name)
	}
	return []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr(somewhere)}, nil
}
