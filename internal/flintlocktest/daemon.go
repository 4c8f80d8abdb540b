package flintlocktest

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/reflection"

	"github.com/firerunner/firerunner/proto/flintlock/services/microvm/v1alpha1"
)

// daemon is one life of flintlockd: its listener and its loop. It is thrown away with everything that it keeps in
// memory, above all the loop's queue; records and machines are the host's.
type daemon struct {
	srv      *Server
	grpc     *grpc.Server
	listener *trackingListener
	ctx      context.Context
	cancel   context.CancelCauseFunc
	tasks    sync.WaitGroup
	died     sync.Once

	mu    sync.Mutex
	queue []queued
	wake  chan struct{}
}

// queued is a record that the loop shall look at, not before a time.
type queued struct {
	uid string
	at  time.Time
}

// StartDaemon starts flintlockd if it is down, at the same address as before. Its first deed is a resync: dead
// machines are started again, and a record that kills the daemon kills it again.
func (s *Server) StartDaemon() error {
	s.life.Lock()
	defer s.life.Unlock()
	s.mu.Lock()
	up, closed := s.daemon != nil, s.closed
	s.mu.Unlock()
	switch {
	case closed:
		return errClosed
	case up:
		return nil
	}
	listener, err := net.Listen("tcp", s.addr)
	if err != nil {
		return fmt.Errorf("starting flintlockd: %w", err)
	}
	s.addr = listener.Addr().String()
	d := &daemon{
		srv: s, wake: make(chan struct{}, 1),
		listener: &trackingListener{Listener: listener, conns: map[string]net.Conn{}},
	}
	d.ctx, d.cancel = context.WithCancelCause(s.ctx)
	options := []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(d.unary), grpc.ChainStreamInterceptor(d.stream), grpc.WaitForHandlers(true),
	}
	if s.cfg.TLS != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(serverTLS(s.cfg.TLS))))
	}
	d.grpc = grpc.NewServer(options...)
	v1alpha1.RegisterMicroVMServer(d.grpc, &service{d: d})
	reflection.Register(d.grpc) // v1 and v1alpha
	s.mu.Lock()
	s.daemon = d
	s.counters.Starts++
	s.touch()
	s.mu.Unlock()
	d.tasks.Go(func() { _ = d.grpc.Serve(d.listener) })
	d.tasks.Go(d.loop)
	return nil
}

// StopDaemon ends flintlockd as SIGKILL does and waits until it is gone. Machines go on.
func (s *Server) StopDaemon() {
	s.life.Lock()
	defer s.life.Unlock()
	s.mu.Lock()
	d := s.daemon
	s.mu.Unlock()
	if d != nil {
		s.end(d)
	}
}

// end ends a daemon. The caller holds life.
func (s *Server) end(d *daemon) {
	s.mu.Lock()
	if s.daemon == d {
		s.daemon = nil
		s.touch()
	}
	s.mu.Unlock()
	d.cancel(errDown)
	d.grpc.Stop()
	d.tasks.Wait()
}

// Restart is StopDaemon and StartDaemon.
func (s *Server) Restart() error {
	s.StopDaemon()
	return s.StartDaemon()
}

// Alive reports whether flintlockd runs.
func (s *Server) Alive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.daemon != nil
}

var errDown = fmt.Errorf("flintlocktest: the daemon is down")

// die is a panic of flintlockd: the process is gone, in the middle of whatever it did. It returns at once, because its
// caller is part of what dies; the caller has to return too.
func (d *daemon) die(reason string) {
	d.died.Do(func() {
		s := d.srv
		d.cancel(errDown)
		s.mu.Lock()
		s.counters.Crashes++
		s.counters.LastCrash = reason
		closed := s.closed
		s.touch()
		s.mu.Unlock()
		s.log.Warn("flintlockd crashed", "reason", reason)
		if closed {
			return
		}
		s.tasks.Go(func() {
			s.life.Lock()
			s.end(d)
			s.life.Unlock()
			if s.cfg.RestartAfter == 0 {
				return
			}
			pause(s.ctx, s.cfg.RestartAfter)
			if err := s.StartDaemon(); err != nil && s.ctx.Err() == nil {
				s.log.Error("flintlockd did not start again", "error", err)
			}
		})
	})
}

// enqueue has the loop look at a record, not before a time. A record is queued once, for the earlier time.
func (d *daemon) enqueue(uid string, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := slices.IndexFunc(d.queue, func(q queued) bool { return q.uid == uid })
	switch {
	case n < 0:
		d.queue = append(d.queue, queued{uid, at})
	case at.Before(d.queue[n].at):
		d.queue[n].at = at
	}
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// next takes the first record that is due, or says how long there is none.
func (d *daemon) next(now time.Time) (uid string, wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	wait = time.Hour
	for n, q := range d.queue {
		if !q.at.After(now) {
			d.queue = slices.Delete(d.queue, n, n+1)
			return q.uid, 0
		}
		wait = min(wait, q.at.Sub(now))
	}
	return "", wait
}

// loop is the one loop of a host. Everything that a microVM needs is done here, for one microVM after the other: while
// one waits for a registry, all others wait, deletes too.
func (d *daemon) loop() {
	resync := time.NewTicker(d.srv.cfg.ResyncPeriod)
	defer resync.Stop()
	d.resync()
	for d.ctx.Err() == nil {
		uid, wait := d.next(time.Now())
		if uid != "" {
			d.reconcile(uid)
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-d.wake:
		case <-timer.C:
		case <-resync.C:
			d.resync()
		case <-d.ctx.Done():
		}
		timer.Stop()
	}
}

// Resync has the daemon look at every record now, as it does by itself once in each Config.ResyncPeriod. It returns
// once the records are queued.
func (s *Server) Resync() {
	s.mu.Lock()
	d := s.daemon
	s.mu.Unlock()
	if d != nil {
		d.resync()
	}
}

// resync queues every record, or none: one that cannot be read spoils it for all.
func (d *daemon) resync() {
	s := d.srv
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counters.Resyncs++
	defer s.touch()
	if err := s.unreadable(); err != nil {
		s.counters.FailedResyncs++
		s.log.Warn("resync failed", "error", err)
		return
	}
	for _, r := range s.inOrder() {
		d.enqueue(r.uid(), time.Time{})
	}
}
