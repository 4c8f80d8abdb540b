// Package network is the whole network of one microVM, in user space and without privileges.
//
// QEMU hands over the guest's Ethernet frames on a unix socket; a TCP/IP stack in this process ends the guest's
// connections and opens its own to where the policy allows. So there is no interface, no route and no firewall
// rule on the host that could be wrong or be left behind, and the guest never sends a packet of its own making
// to anywhere: what it may reach is decided here, per connection, by policy.go.
//
// The guest is hostile. Each limit below is a bound on what it can make this process spend.
package network

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/firerunner/firerunner"
)

// Network is the network of one microVM. New makes it, Serve carries the guest's frames, Close ends it with
// every connection in it. A Network is never used for a second microVM.
type Network struct {
	cfg    Config
	policy *policy
	link   *link
	stack  *stack.Stack
	dns    *dnsServer
	count  counters
	log    *slog.Logger
	refuse *rate.Limiter // of refusals in the log; the counters have them all

	offers offers

	tcpSlots chan struct{}
	udpSlots chan struct{}

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu      sync.Mutex
	closed  bool
	serving bool
	running sync.WaitGroup // Serve calls and flows
}

// New checks the policy and makes the network. Nothing happens on the host until the guest asks for it.
func New(cfg Config) (*Network, error) {
	cfg = cfg.withDefaults()
	plan, err := newPolicy(cfg)
	if err != nil {
		return nil, err
	}
	if err := plan.checkGuest(cfg.Guest, cfg.GuestMAC); err != nil {
		return nil, err
	}
	n := &Network{
		cfg:      cfg,
		policy:   plan,
		log:      cfg.Logger,
		refuse:   rate.NewLimiter(1, 10),
		tcpSlots: make(chan struct{}, cfg.MaxTCPConns),
		udpSlots: make(chan struct{}, cfg.MaxUDPFlows),
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.link = newLink(gatewayMAC(), n.guestMAC(), uint32(cfg.MTU))
	n.link.admit = n.admit
	n.link.bad = func() { n.count.malformed.Add(1) }
	if n.stack, err = newStack(n.link, cfg.bufferBytes); err != nil {
		n.cancel()
		return nil, err
	}
	n.dns = newDNSServer(n)
	n.forwardTCP()
	n.forwardUDP()
	if err := n.serveDNS(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// Guest is how the guest must set up its interface. Unless Config says otherwise it is the same for every microVM,
// since each has a network of its own: a snapshot that knows its address can be started any number of times.
func (n *Network) Guest() firerunner.GuestNetwork {
	return firerunner.GuestNetwork{
		Address: netip.PrefixFrom(n.cfg.Guest, subnet().Bits()).String(),
		Gateway: gatewayAddr().String(),
		DNS:     gatewayAddr().String(),
		MAC:     n.cfg.GuestMAC.String(),
		MTU:     n.cfg.MTU,
	}
}

func (n *Network) guestMAC() tcpip.LinkAddress { return tcpip.LinkAddress(n.cfg.GuestMAC) }

// Serve carries frames between QEMU's end of conn and the network until QEMU hangs up, ctx ends, or Close is
// called; all three are the normal end and return nil. An error means that what came was not QEMU's framing.
// One connection is served at a time; Serve closes conn.
func (n *Network) Serve(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	if err := n.startServing(); err != nil {
		return err
	}
	defer n.stopServing()

	// Closing the connection is what wakes a blocked read or write.
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer context.AfterFunc(n.ctx, func() { conn.Close() })()

	n.link.connect(conn)
	defer n.link.disconnect(conn)
	err := n.link.receive(conn)
	if ctx.Err() != nil || n.ctx.Err() != nil || isHangup(err) {
		return nil
	}
	return firerunner.Errorf(firerunner.Internal, "reading the microVM's network frames: %w", err)
}

// Close ends the network: the connection to QEMU, every flow, and every goroutine. It waits for all of them.
// Closing twice is no error.
func (n *Network) Close() error {
	n.mu.Lock()
	first := !n.closed
	n.closed = true
	n.mu.Unlock()
	n.cancel()
	if first {
		// The link first: no goroutine of the stack may be stuck in a write to QEMU.
		n.link.disconnect(nil)
		n.stack.Close()
	}
	n.running.Wait()
	if first {
		n.stack.Wait()
	}
	return nil
}

// start counts a goroutine in, so that Close waits for it. It refuses once the network is closed.
func (n *Network) start() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.running.Add(1)
	return true
}

func (n *Network) startServing() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.closed:
		return firerunner.Errorf(firerunner.Conflict, "serving the microVM's network: it is closed")
	case n.serving:
		return firerunner.Errorf(firerunner.Conflict, "serving the microVM's network: another connection is being served")
	}
	n.serving = true
	n.running.Add(1)
	return nil
}

func (n *Network) stopServing() {
	n.mu.Lock()
	n.serving = false
	n.mu.Unlock()
	n.running.Done()
}

// refused counts a refusal and, now and then, says so: a job that scans the network must not fill the log.
func (n *Network) refused(kind string, dst, reason string) {
	if n.log.Enabled(n.ctx, slog.LevelDebug) && n.refuse.Allow() {
		n.log.Debug("connection refused", "protocol", kind, "destination", dst, "reason", reason)
	}
}

func isHangup(err error) bool {
	var op *net.OpError
	return !errors.Is(err, errFrameTooLong) && (errors.As(err, &op) || isEOF(err))
}
