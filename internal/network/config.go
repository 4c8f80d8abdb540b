package network

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/firerunner/firerunner"
)

// Dialer opens connections from the host; *net.Dialer is one.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Resolver looks names up on the host; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Config is what a Network is made from. Only Policy has to be set, and the zero policy is nothing at all.
type Config struct {
	Policy firerunner.NetworkPolicy
	Logger *slog.Logger // default: none

	// Deny has more addresses that the guest must not reach, such as public addresses that are used inside a
	// company. Routes are not subject to it.
	Deny []netip.Prefix

	Dialer   Dialer   // default: a net.Dialer
	Resolver Resolver // default: net.DefaultResolver

	// Guest is the guest's own address, within 10.42.0.0/24 and above those that routes get. Default 10.42.0.2, the
	// same for every microVM: each has a network of its own. Another one is for whoever gives out addresses itself.
	Guest netip.Addr
	// GuestMAC is its hardware address. Default 52:54:00:42:00:02.
	GuestMAC net.HardwareAddr

	// HostAddresses returns the addresses of the host's own interfaces, which are never reached as public
	// ones. It is asked for each new flow, because addresses come and go. An error refuses the flow.
	HostAddresses func() ([]netip.Addr, error)

	MTU           int           // default 9000; at most 65520
	MaxTCPConns   int           // default 512
	MaxUDPFlows   int           // default 256
	MaxDNSQueries int           // lookups at a time, default 64
	DialTimeout   time.Duration // default 15 s
	DNSTimeout    time.Duration // default 5 s
	TCPIdle       time.Duration // no byte in either direction, default 1 h
	UDPIdle       time.Duration // default 1 min
	CloseTimeout  time.Duration // for the guest to take the rest of an ended connection, default 10 s

	bufferBytes int // of a TCP connection, in each direction
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Dialer == nil {
		c.Dialer = &net.Dialer{}
	}
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	if c.HostAddresses == nil {
		c.HostAddresses = interfaceAddresses
	}
	if !c.Guest.IsValid() {
		c.Guest = defaultGuest()
	}
	if len(c.GuestMAC) == 0 {
		c.GuestMAC = net.HardwareAddr(defaultMAC())
	}
	setDefault(&c.MTU, defaultMTU)
	setDefault(&c.MaxTCPConns, 512)
	setDefault(&c.MaxUDPFlows, 256)
	setDefault(&c.MaxDNSQueries, 64)
	setDefault(&c.DialTimeout, 15*time.Second)
	setDefault(&c.DNSTimeout, 5*time.Second)
	setDefault(&c.TCPIdle, time.Hour)
	setDefault(&c.UDPIdle, time.Minute)
	setDefault(&c.CloseTimeout, 10*time.Second)
	setDefault(&c.bufferBytes, 256<<10)
	return c
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// interfaceAddresses are the addresses of this host.
func interfaceAddresses() ([]netip.Addr, error) {
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Internal, "listing the host's addresses: %w", err)
	}
	addrs := make([]netip.Addr, 0, len(found))
	for _, a := range found {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			addrs = append(addrs, p.Addr().Unmap())
		}
	}
	return addrs, nil
}
