package flintlocktest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// translated connects two wires whose ends do not agree on the guest's hardware address: the guest has the one that its
// spec asked for, and the network believes in another, as a network does that knows one guest only. Addresses in
// Ethernet headers and in ARP are exchanged; nothing else is looked at.
func translated(serve func(context.Context, net.Conn) error, guest, believed net.HardwareAddr) func(context.Context, net.Conn) error {
	return func(ctx context.Context, wire net.Conn) error {
		defer wire.Close()
		near, far, err := wirePair()
		if err != nil {
			return err
		}
		defer near.Close()
		inner, err := net.FileConn(far)
		far.Close()
		if err != nil {
			return err
		}
		defer context.AfterFunc(ctx, func() { wire.Close(); near.Close() })()
		var tasks sync.WaitGroup
		defer tasks.Wait()
		// When one direction ends, so does the other.
		tasks.Go(func() { exchange(near, wire, guest, believed); near.Close() })
		tasks.Go(func() { exchange(wire, near, believed, guest); wire.Close() })
		return serve(ctx, inner)
	}
}

// exchange copies frames, with one hardware address in place of another, until one end hangs up.
func exchange(to io.Writer, from io.Reader, old, new net.HardwareAddr) {
	in := bufio.NewReaderSize(from, 64<<10)
	for {
		frame, err := readFrame(in)
		if err != nil {
			return
		}
		replaceAddress(frame, old, new)
		out := binary.BigEndian.AppendUint32(make([]byte, 0, frameLength+len(frame)), uint32(len(frame)))
		if _, err := to.Write(append(out, frame...)); err != nil {
			return
		}
	}
}

func replaceAddress(frame []byte, old, new net.HardwareAddr) {
	swap := func(at int) {
		if bytes.Equal(frame[at:at+len(old)], old) {
			copy(frame[at:], new)
		}
	}
	if len(frame) < header.EthernetMinimumSize {
		return
	}
	swap(0)
	swap(len(old))
	packet := header.ARP(frame[header.EthernetMinimumSize:])
	if header.Ethernet(frame).Type() == header.ARPProtocolNumber && packet.IsValid() {
		const sender, target = 8, 18 // of IPv4 over Ethernet, RFC 826
		swap(header.EthernetMinimumSize + sender)
		swap(header.EthernetMinimumSize + target)
	}
}
