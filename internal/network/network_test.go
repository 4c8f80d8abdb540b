package network

import (
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/firerunner/firerunner"
)

func TestRouteOK(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, Config{Policy: route("GitLab.test", 443, listen(t, echo))})
	g := newGuest(t, n)

	code, addrs := g.ask("gitlab.TEST", dnsmessage.TypeA)
	require.Equal(t, dnsmessage.RCodeSuccess, code)
	require.Len(t, addrs, 1)
	require.Equal(t, "10.42.0.8", addrs[0].String())

	// Half-close: the answer comes only after the guest has ended its side.
	conn := g.mustDial("10.42.0.8:443")
	_, err := conn.Write([]byte("want 1234\n"))
	require.NoError(t, err)
	require.NoError(t, conn.CloseWrite())
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "want 1234\n", string(answer))
	require.EqualValues(t, 1, n.Stats().TCPConns)
}

func TestGuest(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, Config{MTU: 9000})
	require.Equal(t, firerunner.GuestNetwork{
		Address: "10.42.0.2/24", Gateway: "10.42.0.1", DNS: "10.42.0.1", MAC: "52:54:00:42:00:02", MTU: 9000,
	}, n.Guest())
}

// A large transfer in both directions at once arrives whole.
func TestTransferOK(t *testing.T) {
	t.Parallel()
	for _, mtu := range []int{1500, maxMTU} {
		const size = 24 << 20
		back := make(chan [32]byte, 1)
		addr := listen(t, func(conn *net.TCPConn) {
			defer conn.Close()
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				_, _ = io.Copy(conn, randomBytes(2, size))
				_ = conn.CloseWrite()
			}()
			back <- digest(conn)
			<-sent
		})
		n := newNetwork(t, Config{Policy: route("big", 80, addr), MTU: mtu})
		conn := newGuest(t, n).mustDial("10.42.0.8:80")
		require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
		go func() {
			_, _ = io.Copy(conn, randomBytes(1, size))
			_ = conn.CloseWrite()
		}()
		require.Equal(t, digest(randomBytes(2, size)), digest(conn))
		require.Equal(t, digest(randomBytes(1, size)), <-back)
		require.EqualValues(t, size, n.Stats().FromGuest)
		require.EqualValues(t, size, n.Stats().ToGuest)
	}
}

// A guest that does not read stops the sender; nothing piles up in between.
func TestBackpressureOK(t *testing.T) {
	t.Parallel()
	wrote := make(chan int64, 1)
	addr := listen(t, func(conn *net.TCPConn) {
		_ = conn.SetWriteBuffer(64 << 10)
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		size, _ := io.Copy(conn, randomBytes(1, 256<<20))
		wrote <- size
		conn.Close()
	})
	n := newNetwork(t, Config{Policy: route("big", 80, addr)})
	newGuest(t, n).mustDial("10.42.0.8:80")
	require.Less(t, <-wrote, int64(32<<20), "kernel buffers and two of ours")
	require.Less(t, n.Stats().ToGuest, uint64(8<<20))
}

func TestServeEnds(t *testing.T) {
	t.Parallel()
	t.Run("when QEMU hangs up", func(t *testing.T) {
		t.Parallel()
		far, ended := serve(t, newNetwork(t, Config{}))
		_, err := far.Write([]byte{0, 0, 0, 60, 1}) // in the middle of a frame
		require.NoError(t, err)
		require.NoError(t, far.Close())
		require.NoError(t, <-ended)
	})
	t.Run("when the context ends", func(t *testing.T) {
		t.Parallel()
		n := newNetwork(t, Config{})
		near, far := socketpair(t)
		defer far.Close()
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- n.Serve(ctx, near) }()
		cancel()
		require.NoError(t, <-ended)
	})
	t.Run("when it is closed", func(t *testing.T) {
		t.Parallel()
		n := newNetwork(t, Config{Policy: route("quiet", 80, listen(t, func(*net.TCPConn) {}))})
		g := newGuest(t, n)
		g.mustDial("10.42.0.8:80")
		require.NoError(t, n.Close())
		require.NoError(t, <-g.ended)
		near, far := socketpair(t)
		defer far.Close()
		err := n.Serve(context.Background(), near)
		require.Equal(t, firerunner.Conflict, firerunner.CodeOf(err))
	})
	t.Run("not for a second connection", func(t *testing.T) {
		t.Parallel()
		n := newNetwork(t, Config{})
		newGuest(t, n).settle()
		near, far := socketpair(t)
		defer far.Close()
		err := n.Serve(context.Background(), near)
		require.Equal(t, firerunner.Conflict, firerunner.CodeOf(err))
	})
	t.Run("with an error when the lengths are not QEMU's", func(t *testing.T) {
		t.Parallel()
		far, ended := serve(t, newNetwork(t, Config{}))
		_, err := far.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		require.NoError(t, err)
		require.ErrorIs(t, <-ended, errFrameTooLong)
	})
}

func TestLimits(t *testing.T) {
	t.Parallel()
	addr := listen(t, echo)
	n := newNetwork(t, Config{Policy: route("echo", 80, addr), MaxTCPConns: 2})
	g := newGuest(t, n)
	g.mustDial("10.42.0.8:80")
	second := g.mustDial("10.42.0.8:80")
	_, err := g.dial("10.42.0.8:80")
	require.ErrorContains(t, err, "refused")
	require.EqualValues(t, 1, n.Stats().RefusedTCP)

	// A slot comes back when its connection has ended on both sides.
	second.Close()
	require.Eventually(t, func() bool { return len(n.tcpSlots) == 1 }, patience, time.Millisecond)
}

// The far side's refusal reaches the guest as one, at once.
func TestDialRefused(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	g := newGuest(t, newNetwork(t, Config{Policy: route("gone", 80, addr)}))
	_, err = g.dial("10.42.0.8:80")
	require.ErrorContains(t, err, "refused")
}

// A reset on the host's side is a reset for the guest, not the end of the data.
func TestResetOK(t *testing.T) {
	t.Parallel()
	g := newGuest(t, newNetwork(t, Config{Policy: route("rude", 80, listen(t, func(conn *net.TCPConn) {
		_, _ = conn.Read(make([]byte, 1))
		reset(conn)
	}))}))
	conn := g.mustDial("10.42.0.8:80")
	_, err := conn.Write([]byte("x"))
	require.NoError(t, err)
	_, err = conn.Read(make([]byte, 1))
	require.ErrorContains(t, err, "reset")
}

func TestIdleEnds(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, Config{Policy: route("quiet", 80, listen(t, func(*net.TCPConn) {})), TCPIdle: 50 * time.Millisecond})
	conn := newGuest(t, n).mustDial("10.42.0.8:80")
	_, err := conn.Read(make([]byte, 1))
	require.Error(t, err)
	require.Eventually(t, func() bool { return len(n.tcpSlots) == 0 }, patience, time.Millisecond)
}

func randomBytes(seed uint64, size int64) io.Reader {
	var key [32]byte
	key[0] = byte(seed)
	return io.LimitReader(rand.NewChaCha8(key), size)
}

func digest(r io.Reader) (sum [32]byte) {
	h := sha256.New()
	_, _ = io.Copy(h, r)
	copy(sum[:], h.Sum(nil))
	return sum
}

// A guest with an address of its own choosing is let in with that one only.
func TestGuestAddress(t *testing.T) {
	t.Parallel()
	config := func(guest string) Config {
		return Config{Guest: netip.MustParseAddr(guest), Policy: route("echo", 80, "127.0.0.1:1")}
	}
	for _, guest := range []string{"10.42.0.0", "10.42.0.1", "10.42.0.8", "10.42.0.255", "10.43.0.2", "::1"} {
		_, err := New(config(guest))
		require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err), guest)
	}
	for _, mac := range []net.HardwareAddr{{1, 2, 3, 4, 5, 6}, {2}, net.HardwareAddr(gatewayMAC())} {
		_, err := New(Config{GuestMAC: mac})
		require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err), mac)
	}
	with := config("10.42.0.77")
	with.GuestMAC = net.HardwareAddr{2, 0, 0, 0, 0, 7}
	n := newNetwork(t, with)
	require.Equal(t, "10.42.0.77/24", n.Guest().Address)
	require.Equal(t, "02:00:00:00:00:07", n.Guest().MAC)
	packet := func(src string) bool {
		ip := make(header.IPv4, header.IPv4MinimumSize+header.TCPMinimumSize)
		ip.Encode(&header.IPv4Fields{
			TotalLength: uint16(len(ip)), TTL: 64, Protocol: uint8(header.TCPProtocolNumber),
			SrcAddr: toStack(netip.MustParseAddr(src)), DstAddr: toStack(netip.MustParseAddr("10.42.0.8")),
		})
		return n.admitIPv4(ip)
	}
	require.True(t, packet("10.42.0.77"))
	require.False(t, packet("10.42.0.2"))
}
