package flintlocktest

import (
	"context"
	"path"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/firerunner/firerunner/proto/flintlock/services/microvm/v1alpha1"
)

// keptCalls is how many calls a server remembers; the oldest go first.
const keptCalls = 10_000

// Call is one call that reached the daemon, refused ones included.
type Call struct {
	At     time.Time // when it came
	Method string    // its short name: CreateMicroVM
	Name   string    // the spec's id, the uid, or the namespace, whatever the request names
	UID    string    // of what CreateMicroVM made
	Code   codes.Code
	Fault  FaultAction // that struck it
}

// Calls are the calls that came, the oldest first. One is listed once it is answered.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

func (s *Server) logCall(c Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.calls) >= keptCalls {
		s.calls = slices.Delete(s.calls, 0, keptCalls/10)
	}
	s.calls = append(s.calls, c)
	s.touch()
}

// requestName is what a request names.
func requestName(req any) string {
	switch r := req.(type) {
	case *v1alpha1.CreateMicroVMRequest:
		return r.GetMicrovm().GetId()
	case interface{ GetUid() string }:
		return r.GetUid()
	case interface{ GetNamespace() string }:
		return r.GetNamespace()
	}
	return ""
}

// unary goes around each call: faults, then the token, then the call.
func (d *daemon) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, serve grpc.UnaryHandler) (any, error) {
	call := Call{At: d.srv.cfg.Now(), Method: path.Base(info.FullMethod), Name: requestName(req)}
	var answer any
	err := d.around(ctx, &call, func() error {
		err := d.srv.authorize(ctx)
		if err == nil {
			answer, err = serve(ctx, req)
		}
		if made, ok := answer.(*v1alpha1.CreateMicroVMResponse); ok && err == nil {
			call.UID = made.GetMicrovm().GetSpec().GetUid()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// stream does the same for streams.
func (d *daemon) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, serve grpc.StreamHandler) error {
	call := Call{At: d.srv.cfg.Now(), Method: path.Base(info.FullMethod)}
	return d.around(stream.Context(), &call, func() error {
		if err := d.srv.authorize(stream.Context()); err != nil {
			return err
		}
		return serve(srv, stream)
	})
}

// around serves a call with the fault that strikes it, if there is one.
func (d *daemon) around(ctx context.Context, call *Call, serve func() error) (err error) {
	s := d.srv
	s.mu.Lock()
	fault := s.strike(func(f *Fault) bool {
		return slices.Contains(callFaults(), f.Action) && (f.Method == "" || f.Method == call.Method) && f.matchesName(call.Name)
	})
	s.mu.Unlock()
	defer func() {
		call.Code = status.Code(err)
		s.logCall(*call)
	}()
	if fault == nil {
		return serve()
	}
	call.Fault = fault.Action
	broken := status.Error(fault.Code, fault.Message)
	switch fault.Action {
	case FaultDelay, FaultDelayAnswer:
		if fault.Action == FaultDelay {
			pause(ctx, fault.Delay)
		}
		err = serve() // also when nobody waits any more: gRPC stops no call that has begun
		if fault.Action == FaultDelayAnswer {
			pause(ctx, fault.Delay)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	case FaultErrorAfter:
		if err := serve(); err != nil {
			return err
		}
		return broken
	case FaultDrop:
		<-ctx.Done()
		return ctx.Err()
	case FaultDropAfter:
		_ = serve()
		<-ctx.Done()
		return ctx.Err()
	case FaultReset, FaultResetAfter:
		if fault.Action == FaultResetAfter {
			_ = serve()
		}
		if from, ok := peer.FromContext(ctx); ok {
			d.listener.cut(from.Addr.String())
		}
		<-ctx.Done()
		return ctx.Err()
	}
	return broken
}
