package guest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/firerunner/firerunner"
)

const (
	// maxReports is how many reports of one microVM are passed on. An honest guest sends about ten.
	maxReports = 500
	// maxComplaints is how many reports are made about lines that cannot be understood.
	maxComplaints = 10
	// slowLine is how long a guest that has used up its reports waits for each further line to be read, so that
	// it cannot keep a processor of the host busy.
	slowLine = 20 * time.Millisecond
	// clockEvery is how often a guest is told the time. Its own clock runs on in between.
	clockEvery = 5 * time.Minute
)

// Host is the host's end of the channel of one microVM.
type Host struct {
	Now  func() time.Time // default: time.Now
	Rand io.Reader        // default: crypto/rand
}

// Serve is Host.Serve with the defaults.
func Serve(ctx context.Context, conn io.ReadWriteCloser, start firerunner.GuestStart,
	report func(firerunner.GuestReport), orders <-chan firerunner.GuestOrder,
) error {
	return (&Host{}).Serve(ctx, conn, start, report, orders)
}

// Serve speaks with a guest until the connection ends, which is nil, or the context does, which is its error.
// It closes conn. It calls report from one goroutine, in the order in which the guest sent, and acknowledges each
// after report has returned; Seq is left to the caller. The token leaves through the first hello and never again
// in the life of one Serve, so there must be one Serve in the life of a microVM. A closed orders means that there
// are no orders; of orders that the guest has not read yet, the last finish and the last stop are kept.
func (h *Host) Serve(ctx context.Context, conn io.ReadWriteCloser, start firerunner.GuestStart,
	report func(firerunner.GuestReport), orders <-chan firerunner.GuestOrder,
) error {
	s := &session{now: time.Now, rand: rand.Reader, start: start, report: report, out: newOutbox()}
	if h.Now != nil {
		s.now = h.Now
	}
	if h.Rand != nil {
		s.rand = h.Rand
	}
	running, cancel := context.WithCancel(ctx)
	closed := make(chan struct{})
	go func() {
		<-running.Done()
		_ = conn.Close() // the one way to end a read or a write that waits
		close(closed)
	}()
	writing := make(chan error, 1)
	go func() {
		err := s.write(running, conn, orders)
		cancel() // so that reading ends too
		writing <- err
	}()

	err := s.read(running, conn)
	cancel()
	writeErr := <-writing
	<-closed
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case s.failed != nil:
		return s.failed
	case (gone(err) || errors.Is(err, context.Canceled)) && gone(writeErr): // cancelled because writing had ended
		return nil
	case writeErr != nil:
		return firerunner.Errorf(firerunner.Unavailable, "write to the guest: %w", writeErr)
	default:
		return firerunner.Errorf(firerunner.Unavailable, "read from the guest: %w", err)
	}
}

// gone reports whether an error, or none, is what the end of the other side looks like.
func gone(err error) bool {
	for _, end := range []error{nil, io.EOF, io.ErrClosedPipe, net.ErrClosed, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// session is what Serve remembers. Its reading half runs in Serve's goroutine.
type session struct {
	now    func() time.Time
	rand   io.Reader
	start  firerunner.GuestStart
	report func(firerunner.GuestReport)
	out    *outbox

	greeted    bool
	passed     int  // reports passed on, or that would have been
	ended      bool // the end of the runner was passed on
	complaints int
	failed     error
}

// read passes on what the guest says until the stream ends.
func (s *session) read(ctx context.Context, r io.Reader) error {
	in := newLines(r, MaxGuestLine)
	for {
		line, err := in.next()
		switch {
		case errors.Is(err, errLineTooLong):
			s.complain(err)
		case err != nil:
			return err
		case len(line) == 0:
		default:
			message, err := DecodeFromGuest(line)
			if err != nil {
				s.complain(err)
			} else if err := s.take(message); err != nil {
				s.failed = err
				return err
			}
		}
		if s.passed < maxReports {
			continue
		}
		slow := time.NewTimer(slowLine)
		select {
		case <-ctx.Done():
			slow.Stop()
			return ctx.Err()
		case <-slow.C:
		}
	}
}

// take passes on one message and answers it.
func (s *session) take(m FromGuest) error {
	if !m.report() {
		s.passed++ // of no use here, where the host sees the console and the end by itself; it counts all the same
		return nil
	}
	if m.Kind == firerunner.ReportHello {
		if s.greeted {
			s.pass(firerunner.GuestReport{
				Kind:    firerunner.ReportNotice,
				Message: "hello for a second time: it was told nothing",
			})
			s.out.ack(m.Number)
			return nil
		}
		s.greeted = true
		entropy := make([]byte, entropySize)
		if _, err := io.ReadFull(s.rand, entropy); err != nil {
			return firerunner.Errorf(firerunner.Internal, "read randomness for the guest: %w", err)
		}
		if err := s.out.start(FromHost{Kind: HostStart, At: s.now(), Entropy: entropy, Start: s.start}); err != nil {
			return err
		}
		s.pass(reportOf(m))
		s.out.ack(m.Number)
		return nil
	}
	s.pass(reportOf(m))
	s.out.ack(m.Number)
	return nil
}

// reportOf makes a report of a message, without the time and Seq.
func reportOf(m FromGuest) firerunner.GuestReport {
	switch {
	case m.Kind == firerunner.ReportHello:
		m.Message = fmt.Sprintf("agent %s, kernel %s", m.Agent, m.Kernel)
	case m.Kind == firerunner.ReportStarted && m.BootID != "":
		m.Message = "boot " + m.BootID
	}
	return firerunner.GuestReport{
		Kind: m.Kind, JobID: m.JobID, JobKey: m.JobKey, Success: m.Success, Failure: m.Failure, ExitCode: m.ExitCode, Message: m.Message,
	}
}

func (s *session) complain(cause error) {
	if s.complaints++; s.complaints <= maxComplaints {
		s.pass(firerunner.GuestReport{Kind: firerunner.ReportNotice, Message: "a line that cannot be understood: " + cause.Error()})
	} else {
		s.passed++ // it counts all the same, and slows the guest down in the end
	}
}

// pass hands a report on while there are some left. The end of the runner is what the host waits for: it is
// handed on even then, the first time that it is said.
func (s *session) pass(r firerunner.GuestReport) {
	s.passed++
	switch {
	case r.Kind == firerunner.ReportRunnerExited && !s.ended:
		s.ended = true
	case s.passed > maxReports:
		return
	case s.passed == maxReports:
		r = firerunner.GuestReport{Kind: firerunner.ReportNotice, Message: "the guest talks too much: from here on it is not listened to"}
	}
	r.At = s.now()
	s.report(r)
}

// write sends what is in the outbox, the orders and the time, until the context ends or a write fails.
func (s *session) write(ctx context.Context, w io.Writer, orders <-chan firerunner.GuestOrder) error {
	sending := make(chan error, 1)
	go func() { sending <- s.out.drain(ctx, w) }()
	clock := time.NewTicker(clockEvery)
	defer clock.Stop()
	for {
		select {
		case err := <-sending:
			return err
		case <-clock.C:
			s.out.tell(s.now)
		case order, open := <-orders:
			if !open {
				orders = nil
				continue
			}
			s.out.order(order)
		}
	}
}
