package guest

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

const (
	deskToken   = "one-time-token-0123456789"
	deskSession = "session-of-vm-1-abcdef"
)

// desk is a GuestDesk that knows one microVM, vm-1.
type desk struct {
	mu       sync.Mutex
	used     bool
	lost     bool  // the start was lost with an earlier daemon
	down     int   // how often Admit cannot tell yet
	fails    error // of Record
	last     int64
	reports  []firerunner.GuestReport
	numbers  []int64
	console  []byte
	alive    int
	admitted int
	orders   chan firerunner.GuestOrder
	waiting  firerunner.GuestOrder // an order that nobody has taken
	changed  chan struct{}
}

func newDesk() *desk { return &desk{changed: make(chan struct{})} }

func (d *desk) tell() { close(d.changed); d.changed = make(chan struct{}) }

func (d *desk) Admit(_ context.Context, id string, token firerunner.Secret) (firerunner.GuestStart, firerunner.Secret, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.admitted++
	switch {
	case d.admitted <= d.down:
		return firerunner.GuestStart{}, "", errors.New("the disk is full")
	case id != "vm-1" || token != deskToken:
		return firerunner.GuestStart{}, "", firerunner.Errorf(firerunner.Unauthorized, "no")
	case d.lost:
		return firerunner.GuestStart{}, "", firerunner.Errorf(firerunner.NotFound, "lost")
	case d.used:
		return firerunner.GuestStart{}, "", firerunner.Errorf(firerunner.Conflict, "used")
	}
	d.used = true
	return testStart(), deskSession, nil
}

func (d *desk) Return(_ context.Context, id string, session firerunner.Secret) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if id != "vm-1" || !d.used || session != deskSession {
		return 0, firerunner.Errorf(firerunner.Unauthorized, "no")
	}
	return d.last, nil
}

func (d *desk) Record(_ context.Context, _ string, number int64, r firerunner.GuestReport) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fails != nil {
		return d.fails
	}
	if number <= d.last {
		return nil
	}
	d.last = number
	d.reports, d.numbers = append(d.reports, r), append(d.numbers, number)
	d.tell()
	return nil
}

func (d *desk) Alive(string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.alive++
	d.tell()
}

func (d *desk) Print(_ string, text []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.console = append(d.console, text...)
	d.tell()
}

func (d *desk) Orders(string) <-chan firerunner.GuestOrder {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.orders != nil {
		close(d.orders)
	}
	d.orders = make(chan firerunner.GuestOrder, 4)
	if d.waiting != "" {
		d.orders <- d.waiting
	}
	return d.orders
}

// until waits until something is so.
func (d *desk) until(t *testing.T, what string, so func() bool) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		d.mu.Lock()
		changed := d.changed
		is := so()
		d.mu.Unlock()
		if is {
			return
		}
		select {
		case <-changed:
		case <-limit:
			require.Fail(t, "it does not happen", what)
		}
	}
}

// logged is a log that is looked through for secrets.
type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// house is an endpoint that serves on the loopback interface until the test ends.
type house struct {
	address     string
	certificate tls.Certificate
	endpoint    *Endpoint
	log         *logged
	stop        func()
}

func open(t *testing.T, d firerunner.GuestDesk, change func(*EndpointConfig)) *house {
	t.Helper()
	certificate, err := LoadCertificate(t.TempDir())
	require.NoError(t, err)
	h := &house{certificate: certificate, log: &logged{}}
	cfg := EndpointConfig{
		Desk: d, Certificate: certificate, Logger: slog.New(slog.NewJSONHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	h.endpoint, err = NewEndpoint(cfg)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- h.endpoint.Serve(ctx, listener) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-served)
		for _, secret := range []string{deskToken, deskSession, "glrt-secret", base64.StdEncoding.EncodeToString([]byte(deskToken))} {
			require.NotContains(t, h.log.text(), secret)
		}
	})
	t.Cleanup(h.stop)
	return h
}

// caller makes a guest that calls the house.
func (h *house) caller(t *testing.T, change func(*CallerConfig)) *Caller {
	t.Helper()
	cfg := CallerConfig{
		ID: "vm-1", Token: deskToken, Endpoint: h.address, Hello: FromGuest{Agent: "1", Kernel: "6.1"},
		MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond,
	}
	var err error
	cfg.Fingerprint, err = ParseFingerprint(Fingerprint(h.certificate))
	require.NoError(t, err)
	if change != nil {
		change(&cfg)
	}
	c := Call(cfg)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// connect makes a raw TLS connection to the house, as a hostile guest would.
func (h *house) connect(t *testing.T, protocols ...string) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", h.address, &tls.Config{InsecureSkipVerify: true, NextProtos: protocols})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}
