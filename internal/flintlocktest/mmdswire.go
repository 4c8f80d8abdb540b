package flintlocktest

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/netutil"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	metadataNIC   = 1
	metadataMTU   = 1500 + header.EthernetMinimumSize
	metadataConns = 32 // at a time
	// QEMU puts the length of each frame before it, four bytes, big endian, and sends none longer than this.
	// Source: net/stream.c and net/net.h (NET_BUFSIZE) of QEMU.
	frameLength = 4
	frameMax    = 4096 + 65536
)

// MetadataMAC is the guest's address on its metadata network, the same in every microVM of flintlockd.
const MetadataMAC = "AA:FF:00:00:00:01"

// metadataServiceMAC is the other end's. Firecracker's own.
const metadataServiceMAC = tcpip.LinkAddress("\x06\x01\x23\x45\x67\x01")

// serveMetadata is the metadata network of one machine, on wire, until ctx ends or the other end hangs up. There is
// one address on it, 169.254.169.254, with one port, 80; nothing is forwarded, so nothing else can be reached. The
// guest is hostile: frames, connections and requests are bounded.
func serveMetadata(ctx context.Context, wire net.Conn, values map[string]string, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	link := channel.New(256, metadataMTU, metadataServiceMAC)
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	defer s.Destroy()
	address := tcpip.AddrFrom4([4]byte{169, 254, 169, 254})
	if err := configureMetadataStack(s, ethernet.New(link), address); err != nil {
		return err
	}
	listener, err := gonet.ListenTCP(s, tcpip.FullAddress{NIC: metadataNIC, Addr: address, Port: 80}, ipv4.ProtocolNumber)
	if err != nil {
		return fmt.Errorf("listening for metadata requests: %w", err)
	}
	server := &http.Server{
		Handler: MetadataHandler(values), MaxHeaderBytes: 8 << 10,
		ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	var tasks sync.WaitGroup
	tasks.Go(func() { _ = server.Serve(netutil.LimitListener(listener, metadataConns)) })
	tasks.Go(func() { sendFrames(ctx, wire, link) })
	stop := context.AfterFunc(ctx, func() { wire.Close() }) // wakes a blocked read or write
	err = receiveFrames(wire, link)
	cancel()
	stop()
	wire.Close()
	server.Close()
	tasks.Wait()
	link.Close()
	return err
}

func configureMetadataStack(s *stack.Stack, link stack.LinkEndpoint, address tcpip.Address) error {
	if err := s.CreateNIC(metadataNIC, link); err != nil {
		return fmt.Errorf("setting up the metadata network: %s", err)
	}
	here := tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: address.WithPrefix()}
	if err := s.AddProtocolAddress(metadataNIC, here, stack.AddressProperties{}); err != nil {
		return fmt.Errorf("setting up the metadata network: %s", err)
	}
	net16 := tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4([4]byte{169, 254, 0, 0}), PrefixLen: 16}
	s.SetRouteTable([]tcpip.Route{{Destination: net16.Subnet(), NIC: metadataNIC}})
	return nil
}

// receiveFrames brings the guest's frames to the stack. It returns nil when the other end hangs up, and never
// allocates more than one frame at a time, whatever lengths the stream claims.
func receiveFrames(wire io.Reader, link *channel.Endpoint) error {
	in := bufio.NewReaderSize(wire, 64<<10)
	for {
		frame, err := readFrame(in)
		switch {
		case errors.Is(err, errFrameTooLong):
			return err
		case err != nil:
			return nil // hung up
		case len(frame) < header.EthernetMinimumSize || len(frame) > metadataMTU:
			continue
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
		link.InjectInbound(header.Ethernet(frame).Type(), pkt)
		pkt.DecRef()
	}
}

var errFrameTooLong = errors.New("a frame is longer than QEMU can send")

// readFrame reads one frame of QEMU's stream.
func readFrame(in io.Reader) ([]byte, error) {
	var head [frameLength]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > frameMax {
		return nil, fmt.Errorf("%w: %d bytes", errFrameTooLong, size)
	}
	frame := make([]byte, size)
	_, err := io.ReadFull(in, frame)
	return frame, err
}

// sendFrames brings the stack's frames to the guest until ctx ends. What cannot be written is lost, as on any wire.
func sendFrames(ctx context.Context, wire io.Writer, link *channel.Endpoint) {
	for {
		pkt := link.ReadContext(ctx)
		if pkt == nil {
			return
		}
		frame := pkt.ToView()
		pkt.DecRef()
		out := binary.BigEndian.AppendUint32(make([]byte, 0, frameLength+frame.Size()), uint32(frame.Size()))
		out = append(out, frame.AsSlice()...)
		frame.Release()
		if _, err := wire.Write(out); err != nil {
			return
		}
	}
}
