package network

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// listen starts a TCP server on the host's loopback and serves each connection with do.
func listen(t testing.TB, do func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			go do(conn.(*net.TCPConn))
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// echo sends back what it got, after it has got all of it.
func echo(conn *net.TCPConn) {
	defer conn.Close()
	all, err := io.ReadAll(bufio.NewReader(conn))
	if err == nil {
		_, _ = conn.Write(all)
	}
}

// internet is a dialer for which some public addresses exist, on this machine.
type internet map[string]string // public host:port → where it really is

func (i internet) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	real, ok := i[address]
	if !ok {
		return nil, errors.New("no such place: " + address)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, real)
	if err != nil {
		return nil, err
	}
	at := netip.MustParseAddrPort(address)
	if u, ok := conn.(*net.UDPConn); ok {
		return udpAt{u, net.UDPAddrFromAddrPort(at)}, nil
	}
	return tcpAt{conn.(*net.TCPConn), net.TCPAddrFromAddrPort(at)}, nil
}

type tcpAt struct {
	*net.TCPConn
	at net.Addr
}

func (c tcpAt) RemoteAddr() net.Addr { return c.at }

type udpAt struct {
	*net.UDPConn
	at net.Addr
}

func (c udpAt) RemoteAddr() net.Addr { return c.at }

// redirect is a dialer that leads everything to one place.
type redirect string

func (r redirect) DialContext(ctx context.Context, network, _ string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, string(r))
}

// names is a resolver that knows a few names.
type names map[string][]string

func (n names) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	if network != "ip4" {
		return nil, errors.New("asked for " + network)
	}
	found, ok := n[host]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	var addrs []netip.Addr
	for _, a := range found {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs, nil
}

func route(name string, port int, dial string) firerunner.NetworkPolicy {
	return firerunner.NetworkPolicy{Routes: []firerunner.NetworkRoute{{Name: name, Port: port, Dial: dial}}}
}
