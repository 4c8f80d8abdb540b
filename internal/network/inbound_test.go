package network

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"github.com/firerunner/firerunner"
)

// A guest's server is reached from this process, and the guest sees its gateway.
func TestDialOK(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, Config{})
	g := newGuest(t, n)
	listener, err := gonet.ListenTCP(g.stack, fullAddress(defaultGuest().String()+":22"), protoIPv4)
	require.NoError(t, err)
	defer listener.Close()
	from := make(chan string, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		from <- conn.RemoteAddr().String()
		_, _ = io.Copy(conn, conn)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := n.Dial(ctx, 22)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = conn.Write([]byte("hello"))
	require.NoError(t, err)
	answer := make([]byte, 5)
	_, err = io.ReadFull(conn, answer)
	require.NoError(t, err)
	require.Equal(t, "hello", string(answer))
	host, _, err := net.SplitHostPort(<-from)
	require.NoError(t, err)
	require.Equal(t, gatewayAddr().String(), host)
}

func TestDialErr(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, Config{DialTimeout: 10 * time.Second})
	newGuest(t, n)
	_, err := n.Dial(t.Context(), 23)
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err), "nobody listens there")
	_, err = n.Dial(t.Context(), 0)
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = n.Dial(ctx, 22)
	require.Error(t, err)
	require.NoError(t, n.Close())
	_, err = n.Dial(t.Context(), 22)
	require.ErrorContains(t, err, "is closed")
}

// What is offered is there until it is withdrawn, and not a moment longer.
func TestOfferOK(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, Config{})
	g := newGuest(t, n)
	const at = "169.254.169.254:80"
	_, err := g.dial(at)
	require.Error(t, err, "before")
	serving, ended := make(chan struct{}), make(chan struct{})
	withdraw := n.Offer(netip.MustParseAddrPort(at), func(ctx context.Context, conn net.Conn) {
		first := make([]byte, 1)
		if _, err := conn.Read(first); err == nil && first[0] == 'x' {
			_, _ = conn.Write([]byte("y"))
			return
		}
		close(serving)
		<-ctx.Done()
		close(ended)
	})
	conn := g.mustDial(at)
	_, err = conn.Write([]byte("x"))
	require.NoError(t, err)
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "y", string(answer))
	require.NoError(t, conn.Close())

	hanging := g.mustDial(at)
	_, err = hanging.Write([]byte("z"))
	require.NoError(t, err)
	<-serving
	withdraw()
	select {
	case <-ended:
	default:
		t.Fatal("it was still served when withdraw returned")
	}
	_, err = io.ReadAll(hanging)
	require.Error(t, err, "an open connection is reset")
	_, err = g.dial(at)
	require.Error(t, err, "after")
	withdraw() // a second time does nothing
}
