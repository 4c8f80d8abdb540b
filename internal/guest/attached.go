package guest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/firerunner/firerunner"
)

// attached is the connection of a guest that was let in.
type attached struct {
	*Endpoint
	id     string
	conn   *tls.Conn
	in     *lines
	out    *outbox
	log    *slog.Logger
	orders <-chan firerunner.GuestOrder

	pace  bucket
	bad   int
	ended bool // the end of the runner was recorded beyond the limit
}

// skewTold is how far a host's clock may be off until the guest's hello mentions it. The guest's own is set at once.
const skewTold = 5 * time.Second

// errReplaced ends a connection whose guest has a newer one.
var errReplaced = errors.New("the guest has called again")

// serve reads and writes until one of both ends, and returns why.
func (a *attached) serve(ctx context.Context) error {
	_ = a.conn.SetDeadline(time.Time{})
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		err := a.write(ctx)
		cancel(err)
		_ = a.conn.Close() // ends the reading; after a refusal it is also the end in TLS
	}()
	err := a.read(ctx)
	if !errors.Is(err, errRefused) {
		cancel(err)
	}
	<-writing // which, after a refusal, sends that first
	return context.Cause(ctx)
}

// logEnd says why the connection has ended.
func (a *attached) logEnd(err error) {
	a.log.Debug("guest endpoint: the connection ended", "error", err)
}

// read takes what the guest says. errRefused means that the refusal is left to be sent.
func (a *attached) read(ctx context.Context) error {
	for {
		if err := a.paced(ctx); err != nil {
			return err
		}
		// One deadline for the whole line, so that a guest cannot hold a connection with a byte now and then.
		if err := a.conn.SetReadDeadline(time.Now().Add(a.cfg.IdleTimeout)); err != nil {
			return err
		}
		line, err := a.in.next()
		if err != nil && !errors.Is(err, errLineTooLong) {
			return err
		}
		if err := a.hear(ctx, line, err); err != nil {
			return err
		}
	}
}

// hear acts on one line, or on one that was too long. It is no part of read, which waits and so is to need little.
func (a *attached) hear(ctx context.Context, line []byte, err error) error {
	var m FromGuest
	if err == nil {
		m, err = DecodeFromGuest(line)
	}
	if err == nil && m.Kind == GuestAttach {
		err = errors.New("attach for a second time")
	}
	if err == nil {
		return a.take(ctx, m)
	}
	if a.bad++; a.bad > a.cfg.MaxBadLines {
		return firerunner.Errorf(firerunner.Invalid, "too many lines that cannot be understood: %w", err)
	}
	a.log.Debug("guest endpoint: a line that cannot be understood", "error", err)
	return nil
}

// paced waits until the guest may be read again. Meanwhile its own writes wait.
func (a *attached) paced(ctx context.Context) error {
	for {
		a.pace.fill(time.Now(), a.cfg.LinesPerSecond, float64(a.cfg.LineBurst))
		if a.pace.tokens >= 1 {
			a.pace.tokens--
			return nil
		}
		missing := time.Duration((1 - a.pace.tokens) / a.cfg.LinesPerSecond * float64(time.Second))
		if !wait(ctx, max(missing, time.Millisecond)) {
			return context.Cause(ctx)
		}
	}
}

// take acts on one message.
func (a *attached) take(ctx context.Context, m FromGuest) error {
	switch m.Kind {
	case GuestAlive:
		a.cfg.Desk.Alive(a.id)
		a.out.again()
		return nil
	case GuestConsole:
		a.cfg.Desk.Print(a.id, m.Console)
		return nil
	}
	switch {
	case m.Number == 0:
		return firerunner.Errorf(firerunner.Invalid, "a report without a number")
	case m.Number <= int64(a.cfg.MaxReports):
	case m.Kind == firerunner.ReportRunnerExited && !a.ended:
		a.ended = true
	default:
		a.log.Debug("guest endpoint: the guest talks too much", "number", m.Number)
		a.out.ack(m.Number)
		return nil
	}
	report := reportOf(m)
	report.At = a.cfg.Now()
	if m.Kind == firerunner.ReportHello && !m.Clock.IsZero() {
		report.ClockSkew = m.Clock.Sub(report.At)
		if report.ClockSkew.Abs() > skewTold {
			report.Message += fmt.Sprintf("; its host's clock is off by %s", report.ClockSkew.Round(time.Second))
		}
	}
	recording, cancel := context.WithTimeout(ctx, a.cfg.DeskTimeout)
	defer cancel()
	if err := a.cfg.Desk.Record(recording, a.id, m.Number, report); err != nil {
		if !Final(firerunner.CodeOf(err)) || ctx.Err() != nil {
			return err // the guest sends it again to the next connection
		}
		a.log.Warn("guest endpoint: a guest was refused", "code", told(err), "error", err)
		a.out.refuse(told(err))
		return errRefused
	}
	a.out.ack(m.Number)
	return nil
}

// write sends what is in the outbox, the orders and the time, until the context ends, which is nil. An order that comes
// while a line cannot be written stays where the desk keeps it for the next connection.
func (a *attached) write(ctx context.Context) error {
	clock := time.NewTicker(a.cfg.ClockEvery)
	defer clock.Stop()
	to := deadlined{a.conn, a.cfg.WriteTimeout}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.out.wake:
			if err := a.out.send(ctx, to); err != nil {
				return err
			}
		case <-clock.C:
			a.out.tell(a.cfg.Now)
		case order, open := <-a.orders:
			if !open {
				return errReplaced
			}
			a.Endpoint.orders.keep(a.id, order)
			a.out.order(order)
		}
	}
}

// deadlined gives each write a deadline of its own.
type deadlined struct {
	conn    *tls.Conn
	timeout time.Duration
}

func (d deadlined) Write(b []byte) (int, error) {
	if err := d.conn.SetWriteDeadline(time.Now().Add(d.timeout)); err != nil {
		return 0, err
	}
	return d.conn.Write(b)
}
