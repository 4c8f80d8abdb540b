package network

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"github.com/firerunner/firerunner"
)

// Dial connects to a TCP port of the guest; the guest sees its gateway at the other end. Only whoever holds the Network
// can: nothing on the host has a way in. What answers is the guest, so it may be hostile.
func (n *Network) Dial(ctx context.Context, port int) (net.Conn, error) {
	if !n.start() {
		return nil, firerunner.Errorf(firerunner.Unavailable, "connecting to the guest: its network is closed")
	}
	defer n.running.Done()
	ctx, cancel := context.WithTimeout(ctx, n.cfg.DialTimeout)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	if port < 1 || port > 65535 {
		return nil, firerunner.Errorf(firerunner.Invalid, "connecting to the guest: %d is not a port", port)
	}
	to := tcpip.FullAddress{NIC: nicID, Addr: toStack(n.cfg.Guest), Port: uint16(port)}
	conn, err := gonet.DialContextTCP(ctx, n.stack, to, protoIPv4)
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Unavailable, "connecting to port %d of the guest: %w", port, err)
	}
	return conn, nil
}

// offer is a service of this process's own in the guest's network.
type offer struct {
	serve   func(ctx context.Context, conn net.Conn)
	ctx     context.Context
	running sync.WaitGroup
}

// offers are the services by the address at which the guest finds them.
type offers struct {
	mu sync.Mutex
	at map[netip.AddrPort]*offer
}

// Offer has the guest's connections to an address served here, whatever the policy says of it, until withdraw is called.
// Then whoever connects is refused, as if nothing had ever been there; open connections are reset, and every serve has
// returned once withdraw does. serve need not close its connection, and must return when ctx ends.
func (n *Network) Offer(at netip.AddrPort, serve func(ctx context.Context, conn net.Conn)) (withdraw func()) {
	ctx, cancel := context.WithCancel(n.ctx)
	o := &offer{serve: serve, ctx: ctx}
	n.offers.mu.Lock()
	defer n.offers.mu.Unlock()
	if n.offers.at == nil {
		n.offers.at = map[netip.AddrPort]*offer{}
	}
	n.offers.at[at] = o
	return func() {
		n.offers.mu.Lock()
		if n.offers.at[at] == o {
			delete(n.offers.at, at)
		}
		n.offers.mu.Unlock()
		cancel()
		o.running.Wait()
	}
}

// take counts one more connection in; false where nothing is offered.
func (n *Network) take(at netip.AddrPort) (*offer, bool) {
	n.offers.mu.Lock()
	defer n.offers.mu.Unlock()
	o, ok := n.offers.at[at]
	if ok {
		o.running.Add(1)
	}
	return o, ok
}

// carry serves one connection.
func (o *offer) carry(n *Network, guest *guestConn) {
	defer o.running.Done()
	if guest == nil {
		return
	}
	stop := context.AfterFunc(o.ctx, guest.Abort)
	o.serve(o.ctx, guest)
	if stop() {
		guest.end(o.ctx, n.cfg.CloseTimeout)
	}
}
