package network

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/firerunner/firerunner"
)

// newStack makes the TCP/IP stack that ends the guest's connections. It answers on every address (promiscuous)
// and as every address (spoofing); which of them exist is for the forwarders to say.
func newStack(wire stack.LinkEndpoint, bufferBytes int) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	if err := configure(s, wire, bufferBytes); err != nil {
		s.Destroy()
		return nil, firerunner.Errorf(firerunner.Internal, "setting up the microVM's network stack: %s", err)
	}
	return s, nil
}

func configure(s *stack.Stack, wire stack.LinkEndpoint, bufferBytes int) tcpip.Error {
	if err := s.CreateNIC(nicID, wire); err != nil {
		return err
	}
	address := tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: toStack(gatewayAddr()).WithPrefix(),
	}
	if err := s.AddProtocolAddress(nicID, address, stack.AddressProperties{}); err != nil {
		return err
	}
	if err := s.SetSpoofing(nicID, true); err != nil {
		return err
	}
	if err := s.SetPromiscuousMode(nicID, true); err != nil {
		return err
	}
	// The only way out leads to the guest.
	s.SetRouteTable([]tcpip.Route{{
		Destination: tcpip.AddressWithPrefix{Address: toStack(subnet().Addr()), PrefixLen: subnet().Bits()}.Subnet(),
		NIC:         nicID,
	}})
	return configureTCP(s, bufferBytes)
}

// configureTCP bounds what one connection costs. The wire loses and reorders nothing and is as fast as memory,
// so that buffers need not grow with distance and an ended connection has no stragglers to wait for.
func configureTCP(s *stack.Stack, bufferBytes int) tcpip.Error {
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4096, Default: bufferBytes, Max: bufferBytes}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4096, Default: bufferBytes, Max: bufferBytes}
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(false)
	timeWait := tcpip.TCPTimeWaitTimeoutOption(time.Second)
	linger := tcpip.TCPLingerTimeoutOption(10 * time.Second)
	synRetries := tcpip.TCPSynRetriesOption(4)
	for _, option := range []tcpip.SettableTransportProtocolOption{
		&send, &receive, &sack, &moderate, &timeWait, &linger, &synRetries,
	} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return err
		}
	}
	return nil
}

// protocol numbers, under one roof
const (
	protoIPv4 = header.IPv4ProtocolNumber
	protoTCP  = tcp.ProtocolNumber
	protoUDP  = udp.ProtocolNumber
)
