package guest

import (
	"context"
	"crypto/tls"
	"errors"
	"time"

	"github.com/firerunner/firerunner"
)

// run calls, again and again, until the context ends or the guest is refused for good.
func (c *Caller) run(ctx context.Context) {
	backoff := c.cfg.MinBackoff
	doors := append([]Door{{c.cfg.Endpoint, c.cfg.Fingerprint}}, c.cfg.Others...)
	began := time.Now()
	for at := 0; ; {
		attached, err := c.once(ctx, doors[at])
		var refused refusedError
		final := errors.As(err, &refused) && Final(refused.code)
		c.mu.Lock()
		c.err = err
		if final {
			c.refused = refused.code
			c.changed()
		}
		c.mu.Unlock()
		if final {
			c.cfg.Dismissed(refused.code)
			return
		}
		switch {
		case attached:
			backoff = c.cfg.MinBackoff // the same door first: it may be there again at once
		case c.session != "" || time.Since(began) > c.cfg.OthersAfter:
			at = (at + 1) % len(doors)
		}
		if !wait(ctx, c.cfg.Jitter(backoff)) {
			return
		}
		backoff = min(2*backoff, c.cfg.MaxBackoff)
	}
}

// refusedError is a refusal by the endpoint.
type refusedError struct{ code firerunner.Code }

func (e refusedError) Error() string { return "the guest endpoint refuses: " + string(e.code) }

// once is one connection, from dialling to its end. Attached reports whether the guest was let in.
func (c *Caller) once(ctx context.Context, door Door) (attached bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	attaching, stop := context.WithTimeout(ctx, c.cfg.AttachTimeout)
	defer stop()
	raw, err := c.cfg.DialContext(attaching, "tcp", door.Endpoint)
	if err != nil {
		return false, err
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		<-ctx.Done()
		_ = raw.Close()
	}()
	defer func() { cancel(); <-closed }()
	_ = raw.SetDeadline(time.Now().Add(c.cfg.AttachTimeout))
	conn := tls.Client(raw, pinned(door.Fingerprint))
	if err := conn.HandshakeContext(attaching); err != nil {
		return false, err
	}
	in := newLines(conn, MaxHostLine)
	if err := c.attach(conn, in); err != nil {
		return false, err
	}
	_ = raw.SetDeadline(time.Time{})
	writing := make(chan error, 1)
	go func() {
		err := c.write(ctx, conn)
		cancel()
		writing <- err
	}()
	err = c.read(conn, in)
	cancel()
	if writeErr := <-writing; writeErr != nil && !errors.As(err, new(refusedError)) {
		err = writeErr
	}
	return true, err
}

// attach says who we are and takes the answer.
func (c *Caller) attach(conn *tls.Conn, in *lines) error {
	attach := FromGuest{Kind: GuestAttach, ID: c.cfg.ID, Session: c.session}
	if c.session == "" {
		attach.Token = c.cfg.Token
	}
	line, err := EncodeFromGuest(attach)
	if err != nil {
		return err
	}
	if _, err := conn.Write(line); err != nil {
		return err
	}
	answer, err := in.next()
	if err != nil {
		return err
	}
	m, err := DecodeFromHost(answer)
	switch {
	case err != nil:
		return err
	case m.Kind == HostRefused:
		return refusedError{m.Code}
	case m.Kind == HostStart && c.session == "" && m.Session != "":
		c.session = m.Session
		m.Session = ""
		hello := c.cfg.Hello
		hello.Clock = c.cfg.Now() // before whoever waits for the start sets it
		c.Report(hello)
		c.starts <- m // the only one: from here on there is a session
	case m.Kind == HostResume && c.session != "":
		c.acknowledged(m.Number)
		if c.cfg.Clock != nil {
			c.cfg.Clock(m.At)
		}
	default:
		return errors.New("the guest endpoint's answer is not one to an attach")
	}
	return nil
}

// read takes what the host says until the connection ends.
func (c *Caller) read(conn *tls.Conn, in *lines) error {
	for {
		if err := conn.SetReadDeadline(time.Now().Add(c.cfg.Silence)); err != nil {
			return err
		}
		line, err := in.next()
		if errors.Is(err, errLineTooLong) {
			continue
		}
		if err != nil {
			return err
		}
		m, err := DecodeFromHost(line)
		if err != nil {
			continue // a newer host
		}
		switch m.Kind {
		case HostTime:
			if c.cfg.Clock != nil {
				c.cfg.Clock(m.At)
			}
		case HostAck:
			c.acknowledged(m.Number)
		case HostOrder:
			c.ordered(m.Order)
		case HostRefused:
			return refusedError{m.Code}
		}
	}
}

// ordered passes an order on, once. There is room for one of each.
func (c *Caller) ordered(order firerunner.GuestOrder) {
	passed := &c.finished
	if order == firerunner.OrderStop {
		passed = &c.halted
	}
	if !*passed {
		*passed = true
		c.orders <- order
	}
}

// write sends what waits, the oldest first, and signs of life in between.
func (c *Caller) write(ctx context.Context, conn *tls.Conn) error {
	alive, err := EncodeFromGuest(FromGuest{Kind: GuestAlive})
	if err != nil {
		return err
	}
	send := func(line []byte) error {
		if err := conn.SetWriteDeadline(time.Now().Add(c.cfg.Silence)); err != nil {
			return err
		}
		_, err := conn.Write(line)
		if ctx.Err() != nil {
			return nil // we closed it ourselves
		}
		return err
	}
	beat := time.NewTicker(c.cfg.Heartbeat)
	defer beat.Stop()
	for sent := int64(0); ctx.Err() == nil; {
		line, number := c.next(sent)
		if line != nil {
			if err := send(line); err != nil {
				return err
			}
			sent = number
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-beat.C:
			if err := send(alive); err != nil {
				return err
			}
		}
	}
	return nil
}
