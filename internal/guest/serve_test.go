package guest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// served is a Serve under test, with a raw connection in the place of the guest.
type served struct {
	conn    net.Conn
	in      *bufio.Reader
	reports chan firerunner.GuestReport
	orders  chan firerunner.GuestOrder
	done    chan error
	cancel  context.CancelFunc
}

func serve(t *testing.T, host *Host) *served {
	ctx, cancel := context.WithCancel(context.Background())
	near, far := net.Pipe()
	s := &served{
		conn: near, in: bufio.NewReader(near), reports: make(chan firerunner.GuestReport, 2000),
		orders: make(chan firerunner.GuestOrder), done: make(chan error, 1), cancel: cancel,
	}
	go func() {
		s.done <- host.Serve(ctx, far, testStart(), func(r firerunner.GuestReport) { s.reports <- r }, s.orders)
	}()
	t.Cleanup(func() { cancel(); _ = near.Close() })
	return s
}

func (s *served) send(t *testing.T, line string) {
	t.Helper()
	_, err := io.WriteString(s.conn, line+"\n")
	require.NoError(t, err)
}

// expect reads until a message of a kind; acknowledgements may come in between.
func (s *served) expect(t *testing.T, kind HostKind) FromHost {
	t.Helper()
	for {
		_ = s.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		line, err := s.in.ReadBytes('\n')
		require.NoError(t, err)
		m, err := DecodeFromHost(bytes.TrimSpace(line))
		require.NoError(t, err, string(line))
		if m.Kind == kind {
			return m
		}
		require.Equal(t, HostAck, m.Kind, "unexpected %s", line)
	}
}

const helloLine = `{"v":1,"n":1,"kind":"hello","agent":"1","kernel":"6.1"}`

func TestServeOK(t *testing.T) {
	now := time.Unix(1795465437, 0)
	s := serve(t, &Host{Now: func() time.Time { return now }, Rand: strings.NewReader(strings.Repeat("r", 64))})
	s.expect(t, HostPing)
	s.send(t, helloLine)
	start := s.expect(t, HostStart)
	require.Equal(t, testStart(), start.Start)
	require.True(t, now.Equal(start.At))
	require.Equal(t, strings.Repeat("r", 64), string(start.Entropy))
	require.Equal(t, firerunner.GuestReport{Kind: firerunner.ReportHello, At: now, Message: "agent 1, kernel 6.1"}, <-s.reports)

	s.send(t, `{"v":1,"n":2,"kind":"started","boot_id":"b"}`)
	require.Equal(t, firerunner.GuestReport{Kind: firerunner.ReportStarted, At: now, Message: "boot b"}, <-s.reports)
	s.orders <- firerunner.OrderFinish
	require.Equal(t, firerunner.OrderFinish, s.expect(t, HostOrder).Order)
	s.orders <- "dance" // no such order
	s.orders <- firerunner.OrderStop
	require.Equal(t, firerunner.OrderStop, s.expect(t, HostOrder).Order)
	close(s.orders)
	s.send(t, `{"v":1,"n":3,"kind":"runner_exited"}`)
	require.Equal(t, firerunner.ReportRunnerExited, (<-s.reports).Kind)
	for s.expect(t, HostAck).Number != 3 {
	}
	_ = s.conn.Close()
	require.NoError(t, <-s.done)
}

func TestServeSecondHelloIsToldNothing(t *testing.T) {
	s := serve(t, &Host{})
	s.expect(t, HostPing)
	s.send(t, helloLine)
	s.expect(t, HostStart)
	<-s.reports
	s.send(t, helloLine)
	r := <-s.reports
	require.Equal(t, firerunner.ReportNotice, r.Kind)
	require.Contains(t, r.Message, "second time")
	s.orders <- firerunner.OrderStop // whatever would come before it
	s.expect(t, HostOrder)
	s.cancel()
	require.ErrorIs(t, <-s.done, context.Canceled)
}

func TestServeGarbage(t *testing.T) {
	s := serve(t, &Host{})
	go func() { _, _ = io.Copy(io.Discard, s.conn) }()
	for _, line := range []string{"\x00\xff garbage", `{"v":1,"kind":"dance"}`, strings.Repeat("y", MaxGuestLine+100), ""} {
		s.send(t, line)
	}
	s.send(t, helloLine)
	for _, want := range []string{"not a message", "unknown kind", "too long"} {
		r := <-s.reports
		require.Equal(t, firerunner.ReportNotice, r.Kind)
		require.Contains(t, r.Message, want)
	}
	require.Equal(t, firerunner.ReportHello, (<-s.reports).Kind)
	for range 2 * maxComplaints {
		s.send(t, "garbage")
	}
	_ = s.conn.Close()
	require.NoError(t, <-s.done)
	require.Len(t, s.reports, maxComplaints-3)
}

// A guest that floods is cut off, slowed down, and can still be heard to end.
func TestServeFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, &Host{})
		go func() { _, _ = io.Copy(io.Discard, s.conn) }()
		began := time.Now()
		const extra = 100
		for n := range maxReports + extra {
			s.send(t, fmt.Sprintf(`{"v":1,"n":%d,"kind":"notice","message":"x"}`, n))
		}
		require.GreaterOrEqual(t, time.Since(began), (extra-2)*slowLine)
		for range 100 {
			s.send(t, `{"v":1,"n":9999,"kind":"runner_exited"}`)
		}
		_ = s.conn.Close()
		require.NoError(t, <-s.done)
		close(s.reports)
		count := map[firerunner.ReportKind]int{}
		var last firerunner.GuestReport
		for r := range s.reports {
			count[r.Kind]++
			if r.Kind == firerunner.ReportNotice {
				last = r
			}
		}
		require.Equal(t, maxReports, count[firerunner.ReportNotice])
		require.Contains(t, last.Message, "talks too much")
		s.cancel()
	})
}

func TestServeRunnerExitedAfterFlood(t *testing.T) {
	s := &session{now: time.Now, out: newOutbox()}
	var kinds []firerunner.ReportKind
	s.report = func(r firerunner.GuestReport) { kinds = append(kinds, r.Kind) }
	for range 3 * maxReports {
		require.NoError(t, s.take(FromGuest{Kind: firerunner.ReportTookJob, JobID: 1}))
	}
	require.NoError(t, s.take(FromGuest{Kind: firerunner.ReportRunnerExited}))
	require.Equal(t, firerunner.ReportRunnerExited, kinds[len(kinds)-1])
	require.Len(t, kinds, maxReports+1)
	for range 100 {
		require.NoError(t, s.take(FromGuest{Kind: firerunner.ReportRunnerExited}))
	}
	require.Len(t, kinds, maxReports+1)
}

// The clock is told from time to time, and a guest that does not read holds nothing up.
func TestServeTellsTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, &Host{})
		s.expect(t, HostPing)
		time.Sleep(3*clockEvery + time.Second) // the pipe has no buffer: nothing is read meanwhile
		s.orders <- firerunner.OrderFinish
		s.orders <- firerunner.OrderStop
		synctest.Wait()
		require.Equal(t, HostTime, s.expect(t, HostTime).Kind)
		require.Equal(t, firerunner.OrderStop, s.expect(t, HostOrder).Order)
		s.cancel()
		require.ErrorIs(t, <-s.done, context.Canceled)
	})
}

type brokenConn struct {
	io.Reader
	io.Writer
}

func (brokenConn) Close() error { return nil }

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestServeErrUnavailable(t *testing.T) {
	broken := errors.New("broken")
	conn := brokenConn{Reader: errReader{broken}, Writer: io.Discard}
	err := Serve(t.Context(), conn, testStart(), func(firerunner.GuestReport) {}, nil)
	require.ErrorIs(t, err, broken)
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
}

func TestServeErrRandomness(t *testing.T) {
	conn := brokenConn{Reader: strings.NewReader(helloLine + "\n"), Writer: io.Discard}
	err := (&Host{Rand: strings.NewReader("short")}).Serve(t.Context(), conn, testStart(), func(firerunner.GuestReport) {}, nil)
	require.Equal(t, firerunner.Internal, firerunner.CodeOf(err))
}

// What belongs to the channel over a network is no report here.
func TestServeIgnoresNetworkMessages(t *testing.T) {
	s := serve(t, &Host{})
	s.expect(t, HostPing)
	s.send(t, `{"v":1,"kind":"attach","id":"vm-1","token":"t"}`)
	s.send(t, `{"v":1,"kind":"alive"}`)
	s.send(t, `{"v":1,"kind":"console","console":"AAE="}`)
	s.send(t, helloLine)
	require.Equal(t, firerunner.ReportHello, (<-s.reports).Kind)
	s.cancel()
	require.ErrorIs(t, <-s.done, context.Canceled)
}
