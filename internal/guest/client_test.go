package guest

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func TestClientWithServeOK(t *testing.T) {
	near, far := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reports, orders, done := make(chan firerunner.GuestReport, 10), make(chan firerunner.GuestOrder, 1), make(chan error, 1)
	go func() {
		done <- Serve(ctx, far, testStart(), func(r firerunner.GuestReport) { reports <- r }, orders)
	}()
	c := Dial(near, FromGuest{Agent: "1", Kernel: "6.1"}, nil)
	m, err := c.Start(ctx)
	require.NoError(t, err)
	require.Equal(t, testStart(), m.Start)
	require.Len(t, m.Entropy, entropySize)
	require.WithinDuration(t, time.Now(), m.At, time.Minute)

	c.Report(FromGuest{Kind: firerunner.ReportTookJob, JobID: 7})
	c.Report(FromGuest{Kind: firerunner.ReportRunnerExited, ExitCode: 1, Message: "m"})
	require.NoError(t, c.Flush(ctx))
	require.Equal(t, firerunner.ReportHello, (<-reports).Kind)
	require.Equal(t, int64(7), (<-reports).JobID)
	require.Equal(t, "m", (<-reports).Message)
	orders <- firerunner.OrderStop
	require.Equal(t, firerunner.OrderStop, <-c.Orders())
	require.NoError(t, c.Close())
	require.NoError(t, <-done)
}

// emptyPort has nobody at its other end at first: it reads as ended, as a virtio-serial port does.
type emptyPort struct {
	net.Conn
	there atomic.Bool
}

func (p *emptyPort) Read(b []byte) (int, error) {
	if !p.there.Load() {
		return 0, io.EOF
	}
	return p.Conn.Read(b)
}

func TestClientWaitsForTheHostOK(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		port := &emptyPort{Conn: near}
		c := Dial(port, FromGuest{}, nil)
		short, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := c.Start(short)
		cancel()
		require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))

		port.there.Store(true)
		done := make(chan error, 1)
		go func() { done <- Serve(t.Context(), far, testStart(), func(firerunner.GuestReport) {}, nil) }()
		_, err = c.Start(t.Context())
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.NoError(t, <-done)
	})
}

func TestClientHearsTheHost(t *testing.T) {
	near, far := net.Pipe()
	times := make(chan time.Time, 1)
	c := Dial(near, FromGuest{}, func(at time.Time) { times <- at })
	say := func(m FromHost) {
		line, err := EncodeFromHost(m)
		require.NoError(t, err)
		_, err = far.Write(line)
		require.NoError(t, err)
	}
	_, err := far.Write([]byte("half a line of another life\n{}\n"))
	require.NoError(t, err)
	say(FromHost{Kind: HostTime, At: time.Unix(5, 0)})
	require.Equal(t, int64(5), (<-times).Unix())
	for range 5 {
		say(FromHost{Kind: HostOrder, Order: firerunner.OrderFinish})
	}
	say(FromHost{Kind: HostOrder, Order: firerunner.OrderStop})
	say(FromHost{Kind: HostTime, At: time.Unix(6, 0)})
	<-times
	require.Equal(t, firerunner.OrderFinish, <-c.Orders())
	require.Equal(t, firerunner.OrderStop, <-c.Orders())
	// A second start of a mistaken host is not a second start.
	for range 3 {
		say(FromHost{Kind: HostStart, At: time.Unix(7, 0), Start: testStart()})
	}
	_, err = c.Start(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.Close())
	_ = far.Close()
}

func TestClientErrNobodyReads(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	c := Dial(near, FromGuest{}, nil)
	for range 2 * maxUnsent {
		c.Report(FromGuest{Kind: firerunner.ReportNotice, Message: "x"})
	}
	c.mu.Lock()
	require.LessOrEqual(t, len(c.queue), maxUnsent)
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(c.Flush(ctx)))
	require.NoError(t, c.Close())
	_, err := c.Start(ctx)
	require.ErrorContains(t, err, "start")
}
