package network

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/firerunner/firerunner"
)

const somewhere = "93.184.216.34" // a public address, for a server of the test

// forbidden is what no guest may reach by address, ever.
func forbidden() []string {
	return []string{
		"10.42.0.1",       // the gateway
		"10.42.0.77",      // the guest's own subnet
		"10.0.0.1",        // private
		"172.16.5.5",      // private
		"192.168.1.1",     // private
		"100.64.0.1",      // carrier NAT
		"100.100.100.200", // metadata of a cloud
		"169.254.169.254", // metadata
		"169.254.1.1",     // link-local
		"192.0.0.192",     // metadata of a cloud
		"168.63.129.16",   // the host's service of a cloud
		"192.0.2.1",       // documentation
		"198.18.0.1",      // benchmarks
		"240.0.0.1",       // reserved
		"203.0.113.99",    // documentation
	}
}

// newRefusing is a guest of a network for which nothing exists but one route and the host's own address.
func newRefusing(t *testing.T, public bool, own string) *testGuest {
	t.Helper()
	n := newNetwork(t, Config{
		Policy:        firerunner.NetworkPolicy{Public: public, Routes: []firerunner.NetworkRoute{{Name: "gitlab.test", Port: 443, Dial: listen(t, echo)}}},
		Dialer:        internet{},
		HostAddresses: func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr(own)}, nil },
	})
	return newGuest(t, n)
}

func TestForbiddenTCP(t *testing.T) {
	t.Parallel()
	for _, public := range []bool{false, true} {
		g := newRefusing(t, public, "198.51.45.7")
		for _, addr := range append(forbidden(), "198.51.45.7") {
			for _, port := range []string{"80", "443", "22"} {
				_, err := g.dial(addr + ":" + port)
				require.ErrorContains(t, err, "refused", "%s:%s public=%v", addr, port, public)
			}
		}
	}
	// A routed name's address has the routed port and no other.
	g := newRefusing(t, true, "198.51.45.7")
	_, err := g.dial("10.42.0.8:22")
	require.ErrorContains(t, err, "refused")
}

func TestForbiddenUDP(t *testing.T) {
	t.Parallel()
	for _, public := range []bool{false, true} {
		n := newNetwork(t, Config{
			Policy:        firerunner.NetworkPolicy{Public: public},
			Dialer:        internet{},
			HostAddresses: func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("198.51.45.7")}, nil },
		})
		g := newGuest(t, n)
		targets := append(forbidden(), "198.51.45.7")
		for _, addr := range targets {
			_, err := g.udp(addr + ":123").Write([]byte("x"))
			require.NoError(t, err)
		}
		g.settle()
		require.EqualValues(t, len(targets), n.Stats().RefusedUDP, "public=%v", public)
		require.Zero(t, n.Stats().UDPFlows)
	}
}

func TestPublicOnlyWhenAllowed(t *testing.T) {
	t.Parallel()
	world := internet{somewhere + ":80": listen(t, echo)}
	none := func() ([]netip.Addr, error) { return nil, nil }

	closed := newGuest(t, newNetwork(t, Config{Dialer: world, HostAddresses: none}))
	_, err := closed.dial(somewhere + ":80")
	require.ErrorContains(t, err, "refused")

	open := newGuest(t, newNetwork(t, Config{Policy: firerunner.NetworkPolicy{Public: true}, Dialer: world, HostAddresses: none}))
	conn := open.mustDial(somewhere + ":80")
	_, err = conn.Write([]byte("hello"))
	require.NoError(t, err)
	require.NoError(t, conn.CloseWrite())
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "hello", string(answer))

	denied := newGuest(t, newNetwork(t, Config{
		Policy: firerunner.NetworkPolicy{Public: true}, Dialer: world, HostAddresses: none,
		Deny: []netip.Prefix{netip.MustParsePrefix("93.184.0.0/16")},
	}))
	_, err = denied.dial(somewhere + ":80")
	require.ErrorContains(t, err, "refused")
}

func TestPublicUDP(t *testing.T) {
	t.Parallel()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			size, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(buf[:size], from)
		}
	}()
	t.Cleanup(func() { server.Close(); <-done })
	n := newNetwork(t, Config{
		Policy:        firerunner.NetworkPolicy{Public: true},
		Dialer:        internet{somewhere + ":123": server.LocalAddr().String()},
		HostAddresses: func() ([]netip.Addr, error) { return nil, nil },
		MaxUDPFlows:   1,
	})
	g := newGuest(t, n)
	flow := g.udp(somewhere + ":123")
	for _, size := range []int{0, 1, 1400, 9000} {
		_, err := flow.Write(make([]byte, size))
		require.NoError(t, err)
		got, err := flow.Read(make([]byte, 64<<10))
		require.NoError(t, err)
		require.Equal(t, size, got)
	}
	_, err = g.udp(somewhere + ":123").Write([]byte("one flow too many"))
	require.NoError(t, err)
	g.settle()
	require.EqualValues(t, 1, n.Stats().UDPFlows)
	require.EqualValues(t, 1, n.Stats().RefusedUDP)
}

// A dialer that ends up anywhere but at the allowed address is not believed.
func TestDialLedElsewhere(t *testing.T) {
	t.Parallel()
	elsewhere := listen(t, echo)
	n := newNetwork(t, Config{
		Policy:        firerunner.NetworkPolicy{Public: true},
		Dialer:        redirect(elsewhere),
		HostAddresses: func() ([]netip.Addr, error) { return nil, nil },
	})
	_, err := newGuest(t, n).dial(somewhere + ":80")
	require.ErrorContains(t, err, "refused")
}

func TestHostAddressesUnknown(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, Config{
		Policy:        firerunner.NetworkPolicy{Public: true},
		Dialer:        internet{somewhere + ":80": listen(t, echo)},
		HostAddresses: func() ([]netip.Addr, error) { return nil, errors.New("no netlink") },
	})
	_, err := newGuest(t, n).dial(somewhere + ":80")
	require.ErrorContains(t, err, "refused")
}

func TestInterfaceAddresses(t *testing.T) {
	t.Parallel()
	own, err := interfaceAddresses()
	require.NoError(t, err)
	require.Contains(t, own, netip.MustParseAddr("127.0.0.1"))
}

// A route whose name is an address is reached by that address, private or not.
func TestRouteByAddress(t *testing.T) {
	t.Parallel()
	g := newGuest(t, newNetwork(t, Config{Policy: route("192.168.7.7", 8080, listen(t, echo))}))
	g.mustDial("192.168.7.7:8080")
	_, err := g.dial("192.168.7.7:22")
	require.ErrorContains(t, err, "refused")
	_, err = g.dial("192.168.7.8:8080")
	require.ErrorContains(t, err, "refused")
}

func TestOneAddressPerName(t *testing.T) {
	t.Parallel()
	policy := route("a.test", 80, "127.0.0.1:1")
	policy.Routes = append(policy.Routes,
		firerunner.NetworkRoute{Name: "b.test", Port: 80, Dial: "127.0.0.1:2"},
		firerunner.NetworkRoute{Name: "A.test.", Port: 443, Dial: "127.0.0.1:3"})
	g := newGuest(t, newNetwork(t, Config{Policy: policy}))
	_, a := g.ask("a.test", dnsmessage.TypeA)
	_, b := g.ask("b.test", dnsmessage.TypeA)
	require.Equal(t, []netip.Addr{netip.MustParseAddr("10.42.0.8")}, a)
	require.Equal(t, []netip.Addr{netip.MustParseAddr("10.42.0.9")}, b)
}

func TestErrBadRoute(t *testing.T) {
	t.Parallel()
	for name, policy := range map[string]firerunner.NetworkPolicy{
		"no name":                  route("", 80, "h:80"),
		"a URL":                    route("https://gitlab.test", 80, "h:80"),
		"localhost":                route("localhost", 80, "h:80"),
		"loopback":                 route("127.0.0.1", 80, "h:80"),
		"the guest's subnet":       route("10.42.0.1", 80, "h:80"),
		"IPv6":                     route("2001:db8::1", 80, "h:80"),
		"port 0":                   route("gitlab.test", 0, "h:80"),
		"port 65536":               route("gitlab.test", 65536, "h:80"),
		"nowhere":                  route("gitlab.test", 80, ""),
		"no port to dial":          route("gitlab.test", 80, "h"),
		"the same route once more": {Routes: append(route("g", 80, "h:80").Routes, route("G.", 80, "i:80").Routes...)},
	} {
		_, err := New(Config{Policy: policy})
		require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err), name)
	}
	many := firerunner.NetworkPolicy{}
	for i := range 250 {
		many.Routes = append(many.Routes, firerunner.NetworkRoute{Name: "n" + string(rune('a'+i/26)) + string(rune('a'+i%26)), Port: 80, Dial: "h:80"})
	}
	_, err := New(Config{Policy: many})
	require.ErrorContains(t, err, "more names than addresses")
	_, err = New(Config{MTU: 100})
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
}
