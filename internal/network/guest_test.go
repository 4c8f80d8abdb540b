package network

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test; nothing should come near it.
const patience = 20 * time.Second

// testGuest is an honest guest: a second stack, at the other end of a unix socket, as QEMU would be.
type testGuest struct {
	t     testing.TB
	stack *stack.Stack
	conn  net.Conn
	ended chan error // what Serve returned
}

// socketpair is a connected pair of unix stream sockets.
func socketpair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	ends := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "frames")
		ends[i], err = net.FileConn(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	return ends[0], ends[1]
}

// newNetwork makes a network that ends with the test.
func newNetwork(t testing.TB, cfg Config) *Network {
	t.Helper()
	n, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	return n
}

// serve connects the far end of a wire to the network.
func serve(t testing.TB, n *Network) (far net.Conn, ended chan error) {
	t.Helper()
	near, far := socketpair(t)
	ended = make(chan error, 1)
	go func() { ended <- n.Serve(context.Background(), near) }()
	t.Cleanup(func() { far.Close() })
	return far, ended
}

func newGuest(t testing.TB, n *Network) *testGuest {
	t.Helper()
	far, ended := serve(t, n)
	wire := newLink(defaultMAC(), gatewayMAC(), uint32(n.cfg.MTU))
	wire.connect(far)
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	require.Nil(t, s.CreateNIC(nicID, wire))
	require.Nil(t, s.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
		Protocol:          protoIPv4,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: toStack(defaultGuest()), PrefixLen: 24},
	}, stack.AddressProperties{}))
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, Gateway: toStack(gatewayAddr()), NIC: nicID}})
	sack := tcpip.TCPSACKEnabled(true)
	require.Nil(t, s.SetTransportProtocolOption(protoTCP, &sack))
	received := make(chan struct{})
	go func() {
		defer close(received)
		_ = wire.receive(far)
	}()
	t.Cleanup(func() {
		far.Close()
		<-received
		s.Destroy()
	})
	return &testGuest{t: t, stack: s, conn: far, ended: ended}
}

// dial opens a connection from inside the guest.
func (g *testGuest) dial(address string) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return gonet.DialContextTCP(ctx, g.stack, fullAddress(address), protoIPv4)
}

func (g *testGuest) mustDial(address string) *gonet.TCPConn {
	g.t.Helper()
	conn, err := g.dial(address)
	require.NoError(g.t, err)
	g.t.Cleanup(func() { conn.Close() })
	require.NoError(g.t, conn.SetDeadline(time.Now().Add(patience)))
	return conn
}

// udp opens a flow from inside the guest.
func (g *testGuest) udp(address string) *gonet.UDPConn {
	g.t.Helper()
	to := fullAddress(address)
	conn, err := gonet.DialUDP(g.stack, nil, &to, protoIPv4)
	require.NoError(g.t, err)
	g.t.Cleanup(func() { conn.Close() })
	require.NoError(g.t, conn.SetDeadline(time.Now().Add(patience)))
	return conn
}

// ask sends a DNS question and returns the code and the addresses.
func (g *testGuest) ask(name string, kind dnsmessage.Type) (dnsmessage.RCode, []netip.Addr) {
	g.t.Helper()
	conn := g.udp("10.42.0.1:53")
	_, err := conn.Write(query(g.t, name, kind))
	require.NoError(g.t, err)
	buf := make([]byte, 1500)
	size, err := conn.Read(buf)
	require.NoError(g.t, err)
	return parseAnswer(g.t, buf[:size])
}

// settle returns once the network has handled every frame that the guest sent before: frames are read in order.
func (g *testGuest) settle() {
	g.t.Helper()
	g.ask("1.0.42.10.in-addr.arpa", dnsmessage.TypePTR) // needs no resolver
}

func fullAddress(address string) tcpip.FullAddress {
	at := netip.MustParseAddrPort(address)
	return tcpip.FullAddress{NIC: nicID, Addr: toStack(at.Addr()), Port: at.Port()}
}

func query(t testing.TB, name string, kind dnsmessage.Type) []byte {
	t.Helper()
	msg := dnsmessage.Message{
		Header: dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{
			Name: dnsmessage.MustNewName(name + "."), Type: kind, Class: dnsmessage.ClassINET,
		}},
	}
	packed, err := msg.Pack()
	require.NoError(t, err)
	return packed
}

func parseAnswer(t testing.TB, packed []byte) (dnsmessage.RCode, []netip.Addr) {
	t.Helper()
	var msg dnsmessage.Message
	require.NoError(t, msg.Unpack(packed))
	require.True(t, msg.Response)
	require.EqualValues(t, 7, msg.ID)
	var addrs []netip.Addr
	for _, a := range msg.Answers {
		addrs = append(addrs, netip.AddrFrom4(a.Body.(*dnsmessage.AResource).A))
	}
	return msg.RCode, addrs
}
