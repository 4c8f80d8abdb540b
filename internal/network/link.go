package network

import (
	"encoding/binary"
	"net"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// linkHeader is what goes before each packet: QEMU's length and the Ethernet header.
const linkHeader = lengthSize + header.EthernetMinimumSize

// link is the wire between the stack and QEMU. It has two ends and no more, so that nothing has to be resolved
// or learnt: what goes out is always for the peer.
//
// A write waits until QEMU takes the frame. That is the backpressure: the stack's senders stop while the guest
// does not read, and no queue grows. Only disconnect ends such a wait.
type link struct {
	local, peer tcpip.LinkAddress

	// admit decides about each frame that comes in. A reply, if there is one, goes out instead.
	admit func(frame []byte) (deliver bool, reply []byte)
	bad   func()

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
	mtu        uint32

	out    sync.Mutex // one writer at a time
	connMu sync.Mutex // guards conn; never held while writing
	conn   net.Conn
	spare  net.Buffers // reused, under out
}

func newLink(local, peer tcpip.LinkAddress, mtu uint32) *link {
	return &link{
		local: local, peer: peer, mtu: mtu,
		admit: func([]byte) (bool, []byte) { return true, nil },
		bad:   func() {},
	}
}

// connect makes conn the wire.
func (l *link) connect(conn net.Conn) {
	l.connMu.Lock()
	defer l.connMu.Unlock()
	l.conn = conn
}

// disconnect cuts the wire, if it is conn or conn is nil, and with it every write that waits.
func (l *link) disconnect(conn net.Conn) {
	l.connMu.Lock()
	defer l.connMu.Unlock()
	if l.conn == nil || (conn != nil && conn != l.conn) {
		return
	}
	l.conn.Close()
	l.conn = nil
}

func (l *link) wire() net.Conn {
	l.connMu.Lock()
	defer l.connMu.Unlock()
	return l.conn
}

// receive brings frames from conn to the stack until conn ends, and returns why it did.
func (l *link) receive(conn net.Conn) error {
	frames := newFrameReader(conn, int(l.MTU())+header.EthernetMinimumSize, l.bad)
	for {
		frame, err := frames.next()
		if err != nil {
			return err
		}
		deliver, reply := l.admit(frame.AsSlice())
		if reply != nil {
			l.send(net.Buffers{reply})
		}
		if !deliver {
			frame.Release()
			continue
		}
		l.deliver(frame)
	}
}

func (l *link) deliver(frame *buffer.View) {
	kind := header.Ethernet(frame.AsSlice()).Type()
	frame.TrimFront(header.EthernetMinimumSize)
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(frame)})
	defer pkt.DecRef()
	l.mu.RLock()
	dispatcher := l.dispatcher
	l.mu.RUnlock()
	if dispatcher != nil {
		dispatcher.DeliverNetworkPacket(kind, pkt)
	}
}

// WritePackets sends a batch with one system call and without a copy.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	list := pkts.AsSlice()
	l.out.Lock()
	defer l.out.Unlock()
	bufs := l.spare[:0]
	for _, pkt := range list {
		l.frame(pkt)
		bufs = append(bufs, pkt.AsSlices()...)
	}
	l.spare = bufs
	l.write(bufs)
	clear(l.spare) // keep the array, not the packets
	return len(list), nil
}

// frame puts QEMU's length and the Ethernet header before a packet.
func (l *link) frame(pkt *stack.PacketBuffer) {
	size := pkt.Size() + header.EthernetMinimumSize
	head := pkt.LinkHeader().Push(linkHeader)
	binary.BigEndian.PutUint32(head, uint32(size))
	header.Ethernet(head[lengthSize:]).Encode(&header.EthernetFields{
		SrcAddr: l.local, DstAddr: l.peer, Type: pkt.NetworkProtocolNumber,
	})
}

func (l *link) send(bufs net.Buffers) {
	l.out.Lock()
	defer l.out.Unlock()
	l.write(bufs)
}

// write sends what is there, or drops it: a packet for a wire that is cut is lost, as on any network.
func (l *link) write(bufs net.Buffers) {
	conn := l.wire()
	if conn == nil {
		return
	}
	if _, err := bufs.WriteTo(conn); err != nil {
		l.disconnect(conn) // half a frame may be out: the stream is of no more use
	}
}

// The rest is what the stack wants to know of a link.

func (l *link) MTU() uint32 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.mtu
}

func (l *link) SetMTU(mtu uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mtu = mtu
}

func (l *link) Attach(d stack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = d
}

func (l *link) IsAttached() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dispatcher != nil
}

// Capabilities: nothing flips a bit on a unix socket, so what comes in is not summed again.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

// SupportedGSO lets TCP hand over many segments in one batch.
func (l *link) SupportedGSO() stack.SupportedGSO { return stack.GVisorGSOSupported }

func (l *link) GSOMaxSize() uint32                      { return stack.GVisorGSOMaxSize }
func (l *link) MaxHeaderLength() uint16                 { return linkHeader }
func (l *link) LinkAddress() tcpip.LinkAddress          { return l.local }
func (l *link) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (l *link) AddHeader(*stack.PacketBuffer)           {}
func (l *link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (l *link) Wait()                                   {}
func (l *link) Close()                                  {}
func (l *link) SetOnCloseAction(func())                 {}
