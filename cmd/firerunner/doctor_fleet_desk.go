package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/guest"
)

// probeDesk is where the guests of probe microVMs call: FireRunner's own guest endpoint, with its own certificate, as
// long as doctor looks. It lets each in once, hears its hello, and has no work for it: a guest that gets a start without a
// machine id refuses it and turns itself off.
type probeDesk struct {
	fingerprint string
	calls       atomic.Int64 // connections that came
	stop        context.CancelFunc
	served      chan struct{}
	closed      bool // nothing listens here: guests are not waited for

	mu     sync.Mutex
	guests map[string]*probedGuest
}

// probedGuest is one guest that is waited for.
type probedGuest struct {
	id      string
	token   firerunner.Secret
	session firerunner.Secret
	used    bool
	hello   chan firerunner.GuestReport // the first
	ghost   chan time.Time              // when its disk was booted again
}

var _ firerunner.GuestDesk = (*probeDesk)(nil)

// openProbeDesk listens where the daemon would. Where that is taken, microVMs are made all the same, and nobody waits for
// their guests.
func (e *examination) openProbeDesk(ctx context.Context) (*probeDesk, []finding) {
	d := &probeDesk{guests: map[string]*probedGuest{}, served: make(chan struct{})}
	shut := func(f finding) (*probeDesk, []finding) {
		close(d.served)
		d.closed, d.stop = true, func() {}
		return d, []finding{f}
	}
	g := e.cfg.Guest
	at := net.JoinHostPort(g.Host, strconv.Itoa(g.Port))
	certificate, err := guest.LoadCertificate(filepath.Join(e.cfg.StateDir, "guest"))
	if err != nil {
		return shut(failing(err, "see that state_dir can be written"))
	}
	listener, err := net.Listen("tcp", at)
	if errors.Is(err, syscall.EADDRINUSE) {
		return shut(finding{
			Verdict: skip, Found: "whether guests reach FireRunner, hosts' clocks and resync periods: something listens at " + at + " already, such as firerunner serve",
			Remedy: "while it serves, its log says so of each runner (booting to ready); else stop it for doctor --deep: microVMs go on",
		})
	}
	if err != nil {
		return shut(failing(err, "set guest.host to an address of this machine, and guest.port to one that is free"))
	}
	d.fingerprint = guest.Fingerprint(certificate)
	endpoint, err := guest.NewEndpoint(guest.EndpointConfig{Desk: d, Certificate: certificate})
	if err != nil {
		_ = listener.Close()
		return shut(failing(err, "this is a mistake of FireRunner: please report it"))
	}
	var serving context.Context
	serving, d.stop = context.WithCancel(context.WithoutCancel(ctx)) // until it is closed: removals outlive ctx
	go func() {
		defer close(d.served)
		_ = endpoint.Serve(serving, countedListener{listener, &d.calls}) // it ends with close
	}()
	return d, nil
}

// close ends the listening and waits for it.
func (d *probeDesk) close() {
	d.stop()
	<-d.served
}

// expect announces a guest.
func (d *probeDesk) expect() (*probedGuest, error) {
	var random [40]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, firerunner.Errorf(firerunner.Internal, "reading random bytes: %w", err)
	}
	g := &probedGuest{
		id: "doctor-" + hex.EncodeToString(random[:4]), token: firerunner.Secret(hex.EncodeToString(random[4:20])),
		session: firerunner.Secret(hex.EncodeToString(random[20:])), hello: make(chan firerunner.GuestReport, 1), ghost: make(chan time.Time, 16),
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.guests[g.id] = g
	return g, nil
}

func (d *probeDesk) guest(id string, secret firerunner.Secret, of func(*probedGuest) firerunner.Secret) (*probedGuest, error) {
	g, ok := d.guests[id]
	if !ok || subtle.ConstantTimeCompare([]byte(secret.Reveal()), []byte(of(g).Reveal())) != 1 {
		return nil, firerunner.Errorf(firerunner.Unauthorized, "doctor waits for no guest %.80q with that token", id)
	}
	return g, nil
}

// Admit lets a guest in once, and notes when its disk is booted again. See firerunner.GuestDesk.
func (d *probeDesk) Admit(_ context.Context, id string, token firerunner.Secret) (firerunner.GuestStart, firerunner.Secret, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g, err := d.guest(id, token, func(g *probedGuest) firerunner.Secret { return g.token })
	if err != nil {
		return firerunner.GuestStart{}, "", err
	}
	if g.used {
		select {
		case g.ghost <- time.Now():
		default: // as many as anybody looks at
		}
		return firerunner.GuestStart{}, "", firerunner.Errorf(firerunner.Conflict, "the probe microVM %s was booted before", id)
	}
	g.used = true
	return firerunner.GuestStart{GitLabURL: "http://192.0.2.1", Token: "none", Name: "doctor", Hostname: id}, g.session, nil
}

// Return lets a guest in again. See firerunner.GuestDesk.
func (d *probeDesk) Return(_ context.Context, id string, session firerunner.Secret) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, err := d.guest(id, session, func(g *probedGuest) firerunner.Secret { return g.session })
	return 0, err
}

// Record takes the hello; what else it says is of no use here. See firerunner.GuestDesk.
func (d *probeDesk) Record(_ context.Context, id string, _ int64, r firerunner.GuestReport) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if g, ok := d.guests[id]; ok && r.Kind == firerunner.ReportHello {
		select {
		case g.hello <- r:
		default: // it was heard
		}
	}
	return nil
}

// Alive does nothing. See firerunner.GuestDesk.
func (d *probeDesk) Alive(string) {}

// Print does nothing. See firerunner.GuestDesk.
func (d *probeDesk) Print(string, []byte) {}

// Orders returns none. See firerunner.GuestDesk.
func (d *probeDesk) Orders(string) <-chan firerunner.GuestOrder { return nil }

// strangers is how many calls came from guests that were not let in.
func (d *probeDesk) strangers() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.calls.Load()
	for _, g := range d.guests {
		if g.used {
			n--
		}
	}
	return n
}

// countedListener counts the connections that come.
type countedListener struct {
	net.Listener
	calls *atomic.Int64
}

func (l countedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.calls.Add(1)
	}
	return conn, err
}
