package network

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/waiter"
)

const chunk = 32 << 10 // copied at a time, in each direction of a connection

// carry joins the two sides of a connection until both have ended. Each direction ends by itself: a client that
// has sent its request and closed its half still gets the answer. An error on one side resets the other.
func (n *Network) carry(guest *guestConn, host net.Conn) {
	abort := sync.OnceFunc(func() {
		guest.Abort()
		reset(host)
	})
	defer context.AfterFunc(n.ctx, abort)()
	idle := watchIdle(n.cfg.TCPIdle, abort)
	defer idle.stop()

	sent := make(chan error, 1)
	go func() {
		err := copyHalf(host, guest, idle, &n.count.fromGuest)
		if err != nil {
			abort()
		}
		sent <- err
	}()
	got := copyHalf(guest, host, idle, &n.count.toGuest)
	if got != nil {
		abort()
	}
	if failed := <-sent; got == nil && failed == nil {
		host.Close()
		guest.end(n.ctx, n.cfg.CloseTimeout)
		return
	}
	abort()
}

// copyHalf copies one direction until its source ends, and passes the end on.
func copyHalf(dst, src net.Conn, idle *idleWatch, count *atomic.Uint64) error {
	buf := make([]byte, chunk)
	for {
		size, err := src.Read(buf)
		if size > 0 {
			idle.touch()
			if _, err := dst.Write(buf[:size]); err != nil {
				return err
			}
			count.Add(uint64(size))
			idle.touch()
		}
		if errors.Is(err, io.EOF) {
			if half, ok := dst.(interface{ CloseWrite() error }); ok {
				return half.CloseWrite()
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// reset ends a host connection so that its peer sees an error, not the end of the data.
func reset(conn net.Conn) {
	if tcp, ok := conn.(interface{ SetLinger(int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}

// end waits until the guest has taken the rest and agreed to the end, and resets the connection if it does not
// in time. Until then the connection keeps its slot: a guest that never agrees would otherwise pile up buffers.
func (g *guestConn) end(ctx context.Context, timeout time.Duration) {
	entry, hangup := waiter.NewChannelEntry(waiter.EventHUp)
	g.queue.EventRegister(&entry)
	defer g.queue.EventUnregister(&entry)
	_ = g.CloseWrite()
	defer g.Close()
	if g.ep.Readiness(waiter.EventHUp) != 0 {
		return
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-hangup:
		return
	case <-timer.C:
	case <-ctx.Done():
	}
	g.Abort()
}

// idleWatch calls end once nothing has been touched for a while.
type idleWatch struct {
	last  atomic.Int64 // since began
	began time.Time
	timer *time.Timer
}

func watchIdle(after time.Duration, end func()) *idleWatch {
	w := &idleWatch{began: time.Now()}
	ready := make(chan struct{}) // the timer may fire before the field is set
	w.timer = time.AfterFunc(after, func() {
		<-ready
		quiet := time.Since(w.began) - time.Duration(w.last.Load())
		if quiet < after {
			w.timer.Reset(after - quiet)
			return
		}
		end()
	})
	close(ready)
	return w
}

func (w *idleWatch) touch() { w.last.Store(int64(time.Since(w.began))) }
func (w *idleWatch) stop()  { w.timer.Stop() }
