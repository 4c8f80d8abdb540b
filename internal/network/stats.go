package network

import "sync/atomic"

// Stats are counts since New. They hold nothing that the guest chose but numbers.
type Stats struct {
	TCPConns   uint64 // connections that were carried
	UDPFlows   uint64 // flows that were carried
	RefusedTCP uint64 // connections refused by the policy, a limit or the far side
	RefusedUDP uint64 // datagrams refused by the policy or a limit
	DNSQueries uint64
	DNSRefused uint64 // questions for names that the guest may not know
	Spoofed    uint64 // frames from an address that is not the guest's
	Malformed  uint64 // frames that are too short, too long or no IPv4
	Dropped    uint64 // other packets that are not carried: multicast, ICMP, unknown protocols
	FromGuest  uint64 // bytes carried
	ToGuest    uint64 // bytes carried
}

type counters struct {
	tcp, udp, refusedTCP, refusedUDP atomic.Uint64
	dns, dnsRefused                  atomic.Uint64
	spoofed, malformed, dropped      atomic.Uint64
	fromGuest, toGuest               atomic.Uint64
}

// Stats returns the counts so far.
func (n *Network) Stats() Stats {
	c := &n.count
	return Stats{
		TCPConns: c.tcp.Load(), UDPFlows: c.udp.Load(),
		RefusedTCP: c.refusedTCP.Load(), RefusedUDP: c.refusedUDP.Load(),
		DNSQueries: c.dns.Load(), DNSRefused: c.dnsRefused.Load(),
		Spoofed: c.spoofed.Load(), Malformed: c.malformed.Load(), Dropped: c.dropped.Load(),
		FromGuest: c.fromGuest.Load(), ToGuest: c.toGuest.Load(),
	}
}
