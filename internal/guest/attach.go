package guest

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/firerunner/firerunner"
)

// maxAttachLine is the longest line, in bytes, of a guest that was not let in yet.
const maxAttachLine = 2 << 10

// call is the life of one connection. It closes it. Most of that life is waiting for a guest that has nothing to say, and a
// goroutine's stack shrinks to what it needs meanwhile: so what only lets a guest in is not below what waits.
func (e *Endpoint) call(ctx context.Context, raw net.Conn, source netip.Prefix) {
	var a *attached
	defer func() { e.sources.leave(source, a == nil) }()
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = raw.Close() // the one way to end a read or a write that waits; of TLS too
	})
	defer func() {
		if stop() {
			_ = raw.Close()
		} else {
			<-closed
		}
	}()
	if a = e.letIn(ctx, raw, source); a != nil {
		a.logEnd(a.serve(ctx))
	}
}

// letIn is a connection's beginning. It returns nil for a stranger, who has been told so where that makes sense.
func (e *Endpoint) letIn(ctx context.Context, raw net.Conn, source netip.Prefix) *attached {
	log := e.cfg.Logger.With("source", raw.RemoteAddr().String())
	_ = raw.SetDeadline(time.Now().Add(e.cfg.HandshakeTimeout))
	conn := tls.Server(raw, e.tls)
	if err := conn.HandshakeContext(ctx); err != nil {
		log.Debug("guest endpoint: no handshake", "error", err)
		return nil
	}
	if conn.ConnectionState().NegotiatedProtocol != Protocol {
		log.Debug("guest endpoint: another protocol")
		return nil
	}
	_ = raw.SetDeadline(time.Now().Add(e.cfg.AttachTimeout))
	in := newLines(conn, e.cfg.MaxLine)
	who, err := readAttach(in)
	if err != nil {
		log.Debug("guest endpoint: nobody attached", "error", err)
		return nil
	}
	log = log.With("microvm", who.ID)
	answer, err := e.admit(ctx, who)
	if err != nil {
		code := told(err)
		if !Final(code) {
			e.sources.forgive(source)
		}
		log.Warn("guest endpoint: a guest was refused", "code", code, "error", err)
		_ = e.refuse(conn, code)
		return nil
	}
	e.sources.attached(source)
	log.Debug("guest endpoint: attached", "again", who.Session != "")
	a := &attached{
		Endpoint: e, id: who.ID, conn: conn, in: in, out: newOutboxOf(answer), log: log, orders: e.cfg.Desk.Orders(who.ID),
	}
	if order := e.orders.get(who.ID); order != "" {
		a.out.order(order)
	}
	e.cfg.Desk.Alive(who.ID)
	return a
}

// readAttach reads the first line.
func readAttach(in *lines) (FromGuest, error) {
	line, err := in.next()
	if err != nil {
		return FromGuest{}, err
	}
	if len(line) > maxAttachLine {
		return FromGuest{}, errLineTooLong
	}
	m, err := DecodeFromGuest(line)
	if err != nil {
		return FromGuest{}, err
	}
	if m.Kind != GuestAttach {
		return FromGuest{}, errors.New("the first line is no attach")
	}
	return m, nil
}

// admit asks the desk, and returns the encoded answer. From here on a token is used up: a guest that does not get
// the answer has lost its start, and is told so when it calls again.
func (e *Endpoint) admit(ctx context.Context, who FromGuest) ([]byte, error) {
	asking, cancel := context.WithTimeout(ctx, e.cfg.DeskTimeout)
	defer cancel()
	if who.Session != "" {
		last, err := e.cfg.Desk.Return(asking, who.ID, who.Session)
		if err != nil {
			return nil, err
		}
		return EncodeFromHost(FromHost{Kind: HostResume, At: e.cfg.Now(), Number: last})
	}
	entropy := make([]byte, entropySize)
	if _, err := io.ReadFull(e.cfg.Rand, entropy); err != nil {
		return nil, firerunner.Errorf(firerunner.Internal, "read randomness for the guest: %w", err)
	}
	start, session, err := e.cfg.Desk.Admit(asking, who.ID, who.Token)
	if err != nil {
		return nil, err
	}
	return EncodeFromHost(FromHost{Kind: HostStart, At: e.cfg.Now(), Entropy: entropy, Start: start, Session: session})
}

// told is all that a guest is told of an error.
func told(err error) firerunner.Code {
	if code := firerunner.CodeOf(err); Final(code) {
		return code
	}
	return firerunner.Unavailable
}

func (e *Endpoint) refuse(conn net.Conn, code firerunner.Code) error {
	line, err := EncodeFromHost(FromHost{Kind: HostRefused, Code: code})
	if err != nil {
		return err
	}
	_ = conn.SetDeadline(time.Now().Add(e.cfg.WriteTimeout))
	if _, err := conn.Write(line); err != nil {
		return err
	}
	return conn.Close() // tells the guest in TLS that this was all
}
