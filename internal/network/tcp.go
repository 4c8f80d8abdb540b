package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// forwardTCP takes every connection that the guest opens, whatever the address.
func (n *Network) forwardTCP() {
	// The handler runs in a goroutine of its own, one for each connection being opened. A few more than there
	// are slots, so that what is beyond the limit gets a refusal instead of silence.
	f := tcp.NewForwarder(n.stack, 0, n.cfg.MaxTCPConns+64, func(r *tcp.ForwarderRequest) {
		if !n.start() {
			r.Complete(false)
			return
		}
		defer n.running.Done()
		n.openTCP(r)
	})
	n.stack.SetTransportProtocolHandler(protoTCP, f.HandlePacket)
}

// openTCP decides about one connection. A refusal is a reset, at once, so that the job fails fast. The guest is
// told that it is connected only after the host is.
func (n *Network) openTCP(r *tcp.ForwarderRequest) {
	dst := netip.AddrPortFrom(fromStack(r.ID().LocalAddress), r.ID().LocalPort)
	select {
	case n.tcpSlots <- struct{}{}:
		defer func() { <-n.tcpSlots }()
	default:
		n.refuseTCP(r, dst, "too many connections")
		return
	}
	if dst == netip.AddrPortFrom(gatewayAddr(), dnsPort) {
		if guest := n.acceptTCP(r); guest != nil {
			n.dns.serveTCP(n.ctx, guest)
			guest.end(n.ctx, n.cfg.CloseTimeout)
		}
		return
	}
	if offered, ok := n.take(dst); ok {
		offered.carry(n, n.acceptTCP(r))
		return
	}
	dial, routed, reason := n.policy.tcp(dst)
	if reason != "" {
		n.refuseTCP(r, dst, reason)
		return
	}
	host, err := n.dial("tcp", dial, routed)
	if err != nil {
		n.refuseTCP(r, dst, err.Error())
		return
	}
	guest := n.acceptTCP(r)
	if guest == nil {
		host.Close()
		return
	}
	n.count.tcp.Add(1)
	n.carry(guest, host)
}

func (n *Network) refuseTCP(r *tcp.ForwarderRequest, dst netip.AddrPort, reason string) {
	n.count.refusedTCP.Add(1) // before the guest can know
	r.Complete(true)
	n.refused("tcp", dst.String(), reason)
}

// acceptTCP ends the handshake with the guest; nil if the guest has changed its mind.
func (n *Network) acceptTCP(r *tcp.ForwarderRequest) *guestConn {
	queue := new(waiter.Queue)
	ep, err := r.CreateEndpoint(queue)
	r.Complete(false)
	if err != nil {
		return nil
	}
	return &guestConn{TCPConn: gonet.NewTCPConn(queue, ep), queue: queue, ep: ep}
}

// dial opens the host's side. Where the operator did not name the target, the connection must have ended up at
// the very address that the policy allowed, whatever the dialer did with it.
func (n *Network) dial(network, address string, routed bool) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(n.ctx, n.cfg.DialTimeout)
	defer cancel()
	conn, err := n.cfg.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("dialling %s: %w", address, err)
	}
	if routed {
		return conn, nil
	}
	if remote, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err != nil || !sameAddr(remote, address) {
		conn.Close()
		return nil, errors.New("dialling " + address + ": it led elsewhere")
	}
	return conn, nil
}

func sameAddr(got netip.AddrPort, want string) bool {
	return netip.AddrPortFrom(got.Addr().Unmap(), got.Port()).String() == want
}

// guestConn is the guest's side of a connection.
type guestConn struct {
	*gonet.TCPConn
	queue *waiter.Queue
	ep    tcpip.Endpoint
}

// Abort resets the connection and frees all that it holds.
func (g *guestConn) Abort() { g.ep.Abort() }
