package guest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

// EndpointConfig is what an Endpoint is made from. Desk and Certificate have to be set; every other field has a
// default.
type EndpointConfig struct {
	Desk        firerunner.GuestDesk
	Certificate tls.Certificate // LoadCertificate; guests know it by its Fingerprint

	Logger *slog.Logger     // default: none. No token and no session is ever in it
	Now    func() time.Time // default: time.Now
	Rand   io.Reader        // what guests get as randomness; default: crypto/rand

	MaxConns          int // connections, default 4096
	MaxConnsPerSource int // of one IPv4 address or IPv6 /64, default 1024: many guests may come from behind one host
	MaxStrangers      int // connections that have not attached yet, default 256
	MaxSources        int // addresses that are remembered, default 16384

	// An address may fail to attach this often; a connection counts as failed until its guest is let in.
	FailuresPerMinute int // default 60
	FailureBurst      int // default 256

	HandshakeTimeout time.Duration // for TLS, default 10 s
	AttachTimeout    time.Duration // for the first line after it, default 10 s
	// IdleTimeout is how long an attached guest may take for one line. It is longer than a Caller's Heartbeat, which
	// is what a guest sends when it has nothing to say. Default 60 s.
	IdleTimeout  time.Duration
	WriteTimeout time.Duration // for one line to a guest, default 10 s
	DeskTimeout  time.Duration // for the desk's answers, default 30 s
	ClockEvery   time.Duration // how often a guest is told the time, default 5 min

	MaxLine          int     // bytes of a line from a guest, default 16 KiB, at most MaxGuestLine; of an attach 2 KiB
	LinesPerSecond   float64 // of one guest; it is not read faster. Default 20
	LineBurst        int     // default 200
	MaxReports       int     // in the life of a microVM, default 500; the end of its runner is always taken
	MaxBadLines      int     // lines of one connection that cannot be understood, default 10
	RememberedOrders int     // guests whose orders are kept for when they come back, default 4096
}

func (c EndpointConfig) withDefaults() EndpointConfig {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	setDefault(&c.MaxConns, 4096)
	setDefault(&c.MaxConnsPerSource, 1024)
	setDefault(&c.MaxStrangers, 256)
	setDefault(&c.MaxSources, 16384)
	setDefault(&c.FailuresPerMinute, 60)
	setDefault(&c.FailureBurst, 256)
	setDefault(&c.HandshakeTimeout, 10*time.Second)
	setDefault(&c.AttachTimeout, 10*time.Second)
	setDefault(&c.IdleTimeout, time.Minute)
	setDefault(&c.WriteTimeout, 10*time.Second)
	setDefault(&c.DeskTimeout, 30*time.Second)
	setDefault(&c.ClockEvery, clockEvery)
	setDefault(&c.MaxLine, 16<<10)
	setDefault(&c.LinesPerSecond, 20)
	setDefault(&c.LineBurst, 200)
	setDefault(&c.MaxReports, maxReports)
	setDefault(&c.MaxBadLines, maxComplaints)
	setDefault(&c.RememberedOrders, 4096)
	c.MaxLine = min(c.MaxLine, MaxGuestLine)
	return c
}

func setDefault[T int | float64 | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Endpoint is where guests call that have a network and no device to their host: the host's end of the channel,
// for all microVMs at once. It keeps nothing that must outlive it: what a guest may and what it has said is the
// desk's, so a daemon that starts again has a new Endpoint, and its guests come back to that.
type Endpoint struct {
	cfg     EndpointConfig
	tls     *tls.Config
	sources *sources
	orders  *keptOrders
}

// NewEndpoint checks the configuration. Errors: Invalid.
func NewEndpoint(cfg EndpointConfig) (*Endpoint, error) {
	if cfg.Desk == nil || len(cfg.Certificate.Certificate) == 0 {
		return nil, firerunner.Errorf(firerunner.Invalid, "make the guest endpoint: it needs a desk and a certificate")
	}
	cfg = cfg.withDefaults()
	return &Endpoint{
		cfg: cfg,
		tls: &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cfg.Certificate}, NextProtos: []string{Protocol},
			SessionTicketsDisabled: true, // a guest calls once as a rule
		},
		sources: newSources(cfg),
		orders:  newKeptOrders(cfg.RememberedOrders),
	}, nil
}

// Serve takes calls from a listener (plain TCP: TLS is the Endpoint's own) until the context ends, which is nil, or
// the listener is closed by somebody else, which is Unavailable. It closes the listener, and returns once every connection has ended.
func (e *Endpoint) Serve(ctx context.Context, listener net.Listener) error {
	var calls sync.WaitGroup
	defer calls.Wait()
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(running, func() { _ = listener.Close() })()
	defer listener.Close()
	for pause := time.Duration(0); ; {
		conn, err := listener.Accept()
		switch {
		case err == nil:
			pause = 0
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return firerunner.Errorf(firerunner.Unavailable, "take calls of guests: %w", err)
		default:
			// Out of file descriptors, as a rule: it passes when connections end.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			e.cfg.Logger.Warn("guest endpoint: cannot take a call", "error", err, "again_in", pause)
			if !wait(ctx, pause) {
				return nil
			}
			continue
		}
		source := sourceOf(conn.RemoteAddr())
		if why := e.sources.enter(source, e.cfg.Now()); why != "" {
			_ = conn.Close()
			if e.sources.mention(e.cfg.Now()) {
				e.cfg.Logger.Warn("guest endpoint: calls are turned away", "source", source, "reason", why)
			}
			continue
		}
		calls.Go(func() { e.call(running, conn, source) })
	}
}

// wait waits, and reports whether the context still runs.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
