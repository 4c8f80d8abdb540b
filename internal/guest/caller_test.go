package guest

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// cut is a connection that breaks at its nth read or write: before the bytes have gone, or after.
type cut struct {
	net.Conn
	left  *atomic.Int64
	after bool
}

func (c cut) step(do func() (int, error)) (int, error) {
	if c.left.Add(-1) != 0 {
		return do()
	}
	if c.after {
		_, _ = do()
	}
	_ = c.Conn.Close()
	return 0, net.ErrClosed
}

func (c cut) Write(b []byte) (int, error) {
	return c.step(func() (int, error) { return c.Conn.Write(b) })
}

func (c cut) Read(b []byte) (int, error) {
	return c.step(func() (int, error) { return c.Conn.Read(b) })
}

// Wherever the connection breaks: either the guest never got its start, and is refused, or each of its reports is
// recorded once and in order.
func TestCallerCutAnywhere(t *testing.T) {
	const reports = 6
	outcomes := map[string]int{}
	for _, after := range []bool{false, true} {
		for at := int64(1); ; at++ {
			d := newDesk()
			h := open(t, d, nil)
			var left atomic.Int64
			left.Store(at)
			c := h.caller(t, func(c *CallerConfig) {
				c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
					return cut{conn, &left, after}, err
				}
			})
			_, err := c.Start(soon(t))
			if err != nil {
				require.Equal(t, firerunner.Conflict, firerunner.CodeOf(err), "cut at %d", at)
				require.Empty(t, d.reports)
				outcomes["refused"]++
			} else {
				for n := range reports {
					c.Report(FromGuest{Kind: firerunner.ReportNotice, Message: fmt.Sprint(n)})
					require.Eventually(t, func() bool { // one by one, so that each is a message of its own
						d.mu.Lock()
						defer d.mu.Unlock()
						return d.last == int64(n)+2
					}, 20*time.Second, 50*time.Microsecond)
				}
				require.NoError(t, c.Flush(soon(t)), "cut at %d", at)
				require.Equal(t, []int64{1, 2, 3, 4, 5, 6, 7}, d.numbers, "cut at %d", at)
				for n := range reports {
					require.Equal(t, fmt.Sprint(n), d.reports[n+1].Message)
				}
				outcomes["resumed"]++
			}
			require.NoError(t, c.Close())
			h.stop()
			if left.Load() > 0 {
				break // it was not cut any more
			}
		}
	}
	require.Positive(t, outcomes["refused"])
	require.Greater(t, outcomes["resumed"], 2*reports)
	t.Logf("%v", outcomes)
}

// A daemon that dies and comes back finds everything that was reported meanwhile, once.
func TestCallerAfterCrash(t *testing.T) {
	d := newDesk()
	first := open(t, d, nil)
	var address atomic.Value
	address.Store(first.address)
	c := first.caller(t, func(c *CallerConfig) {
		c.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address.Load().(string))
		}
	})
	_, err := c.Start(soon(t))
	require.NoError(t, err)
	for range 20 {
		c.Report(FromGuest{Kind: firerunner.ReportNotice, Message: "m"})
	}
	first.stop()
	for range 20 {
		c.Report(FromGuest{Kind: firerunner.ReportNotice, Message: "m"})
	}
	second := open(t, d, func(c *EndpointConfig) { c.Certificate = first.certificate })
	address.Store(second.address)
	c.Report(FromGuest{Kind: firerunner.ReportRunnerExited})
	require.NoError(t, c.Flush(soon(t)))
	require.Len(t, d.reports, 42)
	for i, n := range d.numbers {
		require.Equal(t, int64(i)+1, n)
	}
	require.Equal(t, 1, d.admitted)
}

// An order that nobody has taken yet, or that was on its way when the connection broke, comes once.
func TestCallerOrderOnce(t *testing.T) {
	d := newDesk()
	d.waiting = firerunner.OrderFinish
	h := open(t, d, nil)
	var conns atomic.Int64
	broken := make(chan net.Conn, 10)
	c := h.caller(t, func(c *CallerConfig) {
		c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			conns.Add(1)
			broken <- conn
			return conn, err
		}
	})
	_, err := c.Start(soon(t))
	require.NoError(t, err)
	require.Equal(t, firerunner.OrderFinish, <-c.Orders())
	for n := int64(1); n <= 3; n++ {
		_ = (<-broken).Close()
		c.Report(FromGuest{Kind: firerunner.ReportNotice, Message: "m"})
		require.NoError(t, c.Flush(soon(t)))
	}
	select {
	case order := <-c.Orders():
		require.Fail(t, "again", order)
	default:
	}
}

// A host that says nothing any more is called again.
func TestCallerSilence(t *testing.T) {
	d := newDesk()
	h := open(t, d, nil)
	deaf, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer deaf.Close()
	var calls atomic.Int64
	c := h.caller(t, func(c *CallerConfig) {
		c.AttachTimeout = 50 * time.Millisecond
		c.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if calls.Add(1) == 1 {
				address = deaf.Addr().String()
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
	})
	_, err = c.Start(soon(t))
	require.NoError(t, err)
	require.NoError(t, c.Flush(soon(t)))
}

func TestCallerBounded(t *testing.T) {
	c := Call(CallerConfig{
		Token:       deskToken,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed },
	})
	for range 2 * maxUnsent {
		c.Report(FromGuest{Kind: firerunner.ReportNotice, Message: "m"})
	}
	require.Len(t, c.queue, maxUnsent-reserved)
	for range 2 * maxUnsent {
		c.Report(FromGuest{Kind: firerunner.ReportRunnerExited})
	}
	require.Len(t, c.queue, maxUnsent)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(c.Flush(ctx)))
	_, err := c.Start(ctx)
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
	require.NoError(t, c.Close())
}
