package guest

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// bucket holds tokens that come back at a steady rate. It is not safe for several goroutines.
type bucket struct {
	tokens float64
	at     time.Time
}

// fill gives back what has come since the last time, to at most burst.
func (b *bucket) fill(now time.Time, perSecond, burst float64) {
	if b.at.IsZero() {
		b.tokens = burst
	} else if since := now.Sub(b.at).Seconds(); since > 0 {
		b.tokens = min(burst, b.tokens+since*perSecond)
	}
	b.at = now
}

// sources bounds the connections of each address and of all, those above all that have not said who they are.
type sources struct {
	cfg EndpointConfig

	mu        sync.Mutex
	conns     int
	strangers int
	known     map[netip.Prefix]*source
	mentioned time.Time
}

type source struct {
	conns    int
	failures bucket // what is left of them
}

func newSources(cfg EndpointConfig) *sources {
	return &sources{cfg: cfg, known: map[netip.Prefix]*source{}}
}

// sourceOf is whom an address stands for: an IPv6 network belongs to one as a rule.
func sourceOf(addr net.Addr) netip.Prefix {
	at, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Prefix{} // all of what has no address of its own
	}
	ip := at.Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	prefix, _ := ip.Prefix(bits)
	return prefix
}

// enter counts a new connection, as one that fails. What it returns is why there must not be one.
func (s *sources) enter(from netip.Prefix, now time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.known[from]
	if of == nil {
		if len(s.known) >= s.cfg.MaxSources && !s.forget(now) {
			return "too many addresses"
		}
		of = &source{}
		s.known[from] = of
	}
	of.failures.fill(now, float64(s.cfg.FailuresPerMinute)/60, float64(s.cfg.FailureBurst))
	switch {
	case s.conns >= s.cfg.MaxConns:
		return "too many connections"
	case of.conns >= s.cfg.MaxConnsPerSource:
		return "too many connections from there"
	case s.strangers >= s.cfg.MaxStrangers:
		return "too many connections that have not attached"
	case of.failures.tokens < 1:
		return "too many that failed from there"
	}
	of.failures.tokens--
	of.conns++
	s.conns++
	s.strangers++
	return ""
}

// forget drops the addresses of which nothing needs to be known, and reports whether there is room then.
func (s *sources) forget(now time.Time) bool {
	for prefix, of := range s.known {
		of.failures.fill(now, float64(s.cfg.FailuresPerMinute)/60, float64(s.cfg.FailureBurst))
		if of.conns == 0 && of.failures.tokens >= float64(s.cfg.FailureBurst) {
			delete(s.known, prefix)
		}
	}
	return len(s.known) < s.cfg.MaxSources
}

// attached says that a connection did not fail: its guest was let in.
func (s *sources) attached(from netip.Prefix) {
	s.forgive(from)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strangers--
}

// forgive says that it was not the caller's fault: after an outage of ours, many guests come back at once.
func (s *sources) forgive(from netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.known[from]
	of.failures.tokens = min(float64(s.cfg.FailureBurst), of.failures.tokens+1)
}

// leave says that a connection has ended.
func (s *sources) leave(from netip.Prefix, stranger bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns--
	s.known[from].conns--
	if stranger {
		s.strangers--
	}
}

// mention reports whether it is time to speak of calls that are turned away: once a minute.
func (s *sources) mention(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mentioned.IsZero() && now.Sub(s.mentioned) < time.Minute {
		return false
	}
	s.mentioned = now
	return true
}
