package network

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const maxDatagram = 64 << 10

// forwardUDP takes every datagram that belongs to no flow yet. What is refused is dropped without an answer.
func (n *Network) forwardUDP() {
	f := udp.NewForwarder(n.stack, func(r *udp.ForwarderRequest) bool {
		n.openUDP(r)
		return true
	})
	n.stack.SetTransportProtocolHandler(protoUDP, f.HandlePacket)
}

// openUDP decides about one flow: a pair of addresses and ports. It runs where frames are read, so it must not
// wait for anything.
func (n *Network) openUDP(r *udp.ForwarderRequest) {
	dst := netip.AddrPortFrom(fromStack(r.ID().LocalAddress), r.ID().LocalPort)
	reason := n.policy.udp(dst)
	if reason == "" {
		select {
		case n.udpSlots <- struct{}{}:
		default:
			reason = "too many flows"
		}
	}
	if reason != "" {
		n.count.refusedUDP.Add(1)
		n.refused("udp", dst.String(), reason)
		return
	}
	if !n.start() {
		<-n.udpSlots
		return
	}
	queue := new(waiter.Queue)
	ep, err := r.CreateEndpoint(queue)
	if err != nil {
		<-n.udpSlots
		n.running.Done()
		return
	}
	n.count.udp.Add(1)
	go func() {
		defer n.running.Done()
		defer func() { <-n.udpSlots }()
		n.carryUDP(gonet.NewUDPConn(queue, ep), dst)
	}()
}

// carryUDP passes datagrams both ways until neither side has sent one for a while.
func (n *Network) carryUDP(guest *gonet.UDPConn, dst netip.AddrPort) {
	defer guest.Close()
	host, err := n.dial("udp", dst.String(), false)
	if err != nil {
		n.refused("udp", dst.String(), err.Error())
		return
	}
	end := sync.OnceFunc(func() {
		guest.Close()
		host.Close()
	})
	defer context.AfterFunc(n.ctx, end)()
	idle := watchIdle(n.cfg.UDPIdle, end)
	defer idle.stop()

	var both sync.WaitGroup
	both.Go(func() {
		defer end()
		copyDatagrams(host, guest, idle, &n.count.fromGuest)
	})
	both.Go(func() {
		defer end()
		copyDatagrams(guest, host, idle, &n.count.toGuest)
	})
	both.Wait()
}

func copyDatagrams(dst, src net.Conn, idle *idleWatch, count *atomic.Uint64) {
	buf := make([]byte, maxDatagram)
	for {
		size, err := src.Read(buf)
		if err != nil {
			return
		}
		idle.touch()
		if _, err := dst.Write(buf[:size]); err != nil {
			return
		}
		count.Add(uint64(size))
	}
}
