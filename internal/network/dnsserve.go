package network

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"github.com/firerunner/firerunner"
)

const dnsConnIdle = 10 * time.Second

// serveDNS starts the gateway's DNS server for datagrams; connections come to it from openTCP.
func (n *Network) serveDNS() error {
	at := tcpip.FullAddress{NIC: nicID, Addr: toStack(gatewayAddr()), Port: dnsPort}
	conn, err := gonet.DialUDP(n.stack, &at, nil, protoIPv4)
	if err != nil {
		return firerunner.Errorf(firerunner.Internal, "starting the microVM's DNS server: %w", err)
	}
	if !n.start() {
		return conn.Close()
	}
	stop := context.AfterFunc(n.ctx, func() { conn.Close() })
	go func() {
		defer n.running.Done()
		defer conn.Close()
		defer stop()
		n.dns.serveUDP(n, conn)
	}()
	return nil
}

// serveUDP reads questions. What needs no lookup is answered in place; each lookup has a goroutine, and there
// is a limit to those.
func (d *dnsServer) serveUDP(n *Network, conn *gonet.UDPConn) {
	buf := make([]byte, maxQuery+1)
	for {
		size, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		q, reply, ok := d.parse(buf[:size])
		if ok {
			reply, ok = d.local(q)
		} else {
			ok = true // parse had the last word
		}
		if !ok && !d.tryLookup(n, q, conn, from) {
			reply = q.reply(dnsmessage.RCodeServerFailure, nil)
		}
		if reply != nil {
			_, _ = conn.WriteTo(reply, from) // lost: the guest asks again
		}
	}
}

// tryLookup starts a lookup, unless there are too many.
func (d *dnsServer) tryLookup(n *Network, q question, conn *gonet.UDPConn, from net.Addr) bool {
	select {
	case d.slots <- struct{}{}:
	default:
		return false
	}
	if !n.start() {
		<-d.slots
		return false
	}
	go func() {
		defer n.running.Done()
		defer func() { <-d.slots }()
		if reply := d.lookup(n.ctx, q); reply != nil {
			_, _ = conn.WriteTo(reply, from)
		}
	}()
	return true
}

// serveTCP answers the questions of one connection, one after the other, each with its length before it.
func (d *dnsServer) serveTCP(ctx context.Context, conn *guestConn) {
	defer context.AfterFunc(ctx, conn.Abort)()
	buf := make([]byte, 2+maxQuery)
	for {
		_ = conn.SetDeadline(time.Now().Add(dnsConnIdle))
		if _, err := io.ReadFull(conn, buf[:2]); err != nil {
			return
		}
		size := int(binary.BigEndian.Uint16(buf))
		if size > maxQuery {
			return
		}
		if _, err := io.ReadFull(conn, buf[2:2+size]); err != nil {
			return
		}
		reply := d.answer(ctx, buf[2:2+size])
		if reply == nil {
			return
		}
		framed := binary.BigEndian.AppendUint16(nil, uint16(len(reply)))
		if _, err := conn.Write(append(framed, reply...)); err != nil {
			return
		}
	}
}

// answer is the reply to a query, after a lookup if need be; nil if there is nothing to say.
func (d *dnsServer) answer(ctx context.Context, query []byte) []byte {
	q, reply, ok := d.parse(query)
	if !ok {
		return reply
	}
	if reply, ok := d.local(q); ok {
		return reply
	}
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	default:
		return q.reply(dnsmessage.RCodeServerFailure, nil)
	}
	return d.lookup(ctx, q)
}
