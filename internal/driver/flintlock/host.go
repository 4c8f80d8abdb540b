package flintlock

import (
	"context"
	"errors"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/firerunner/firerunner/proto/flintlock/services/microvm/v1alpha1"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

// daemon is the flintlockd of one host, as we speak with it: every call has a deadline, few are under way at once, and
// one that has not answered for a while is left alone for a while.
type daemon struct {
	Host
	conn    *grpc.ClientConn
	client  v1alpha1.MicroVMClient
	breaker *gobreaker.CircuitBreaker[any]
	slots   chan struct{} // a place for each call under way
	timeout time.Duration
	again   time.Duration // after which one that was left alone is tried
	poke    chan struct{} // look at it now
	silence atomic.Value  // silence: why it was taken for silent last
}

// silence is an error in a box: atomic.Value wants one type.
type silence struct{ error }

func newDaemon(h Host, cfg Config) (*daemon, error) {
	conn, err := dial(h)
	if err != nil {
		return nil, err
	}
	d := &daemon{
		Host: h, conn: conn, client: v1alpha1.NewMicroVMClient(conn), timeout: cfg.CallTimeout, again: cfg.BreakFor,
		slots: make(chan struct{}, cfg.CallsAtOnce), poke: make(chan struct{}, 1),
	}
	d.breaker = gobreaker.NewCircuitBreaker[any](gobreaker.Settings{
		Name:         h.Name,
		Timeout:      cfg.BreakFor,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= uint32(cfg.BreakAfter) },
		IsSuccessful: func(err error) bool { return !silent(err) },
		IsExcluded:   func(err error) bool { return errors.As(err, new(abandoned)) },
		OnStateChange: func(name string, from, to gobreaker.State) {
			cfg.Logger.Warn("a host's circuit breaker has changed", "host", name, "from", from.String(), "to", to.String())
		},
	})
	return d, nil
}

// silent reports whether an error says that the host does not answer.
func silent(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded:
		return true
	}
	return false
}

// call does one call within its deadline. The error is as gRPC has it, or errLeftAlone.
func call[T any](ctx context.Context, d *daemon, do func(ctx context.Context) (T, error)) (T, error) {
	var none T
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
		return none, status.FromContextError(ctx.Err()).Err()
	}
	calling, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	answer, err := d.breaker.Execute(func() (any, error) {
		answer, err := do(calling)
		switch {
		case err != nil && ctx.Err() != nil:
			err = abandoned{err}
		case silent(err):
			d.silence.Store(silence{err})
		}
		return answer, err
	})
	var left abandoned
	switch {
	case errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, gobreaker.ErrTooManyRequests):
		return none, errLeftAlone
	case errors.As(err, &left):
		return none, left.error
	case err != nil:
		return none, err
	}
	return answer.(T), nil
}

// abandoned is the error of a call whose caller did not wait for the answer: it says nothing about the host.
type abandoned struct{ error }

// uidForm is what we take for a uid; flintlockd's are ULIDs.
var uidForm = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)

// list returns what the host has in a namespace; name = "" is all of it. What has no proper uid is left out: nothing
// could be done with it.
func (d *daemon) list(ctx context.Context, namespace, name string) ([]*types.MicroVM, error) {
	request := &v1alpha1.ListMicroVMsRequest{Namespace: namespace}
	if name != "" {
		request.Name = &name
	}
	answer, err := call(ctx, d, func(ctx context.Context) (*v1alpha1.ListMicroVMsResponse, error) {
		return d.client.ListMicroVMs(ctx, request)
	})
	if err != nil {
		return nil, err
	}
	var ours []*types.MicroVM
	for _, vm := range answer.GetMicrovm() {
		// A daemon that answers more than it was asked is not believed.
		if vm.GetSpec().GetNamespace() == namespace && (name == "" || vm.GetSpec().GetId() == name) && uidForm.MatchString(vm.GetSpec().GetUid()) {
			ours = append(ours, vm)
		}
	}
	return ours, nil
}

// create makes a microVM and returns its uid.
func (d *daemon) create(ctx context.Context, spec *types.MicroVMSpec) (uid string, err error) {
	answer, err := call(ctx, d, func(ctx context.Context) (*v1alpha1.CreateMicroVMResponse, error) {
		return d.client.CreateMicroVM(ctx, &v1alpha1.CreateMicroVMRequest{Microvm: spec})
	})
	if err != nil {
		return "", err
	}
	if uid = answer.GetMicrovm().GetSpec().GetUid(); !uidForm.MatchString(uid) {
		return "", status.Error(codes.Internal, "the host's answer has no uid")
	}
	return uid, nil
}

// get returns a microVM; ok = false if the host does not have it.
func (d *daemon) get(ctx context.Context, uid string) (vm *types.MicroVM, ok bool, err error) {
	answer, err := call(ctx, d, func(ctx context.Context) (*v1alpha1.GetMicroVMResponse, error) {
		return d.client.GetMicroVM(ctx, &v1alpha1.GetMicroVMRequest{Uid: uid})
	})
	switch {
	case absent(err):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	}
	return answer.GetMicrovm(), true, nil
}

// remove tells the host to delete a microVM. It is not gone when this returns; nothing to delete is not an error.
func (d *daemon) remove(ctx context.Context, uid string) error {
	_, err := call(ctx, d, func(ctx context.Context) (any, error) {
		return d.client.DeleteMicroVM(ctx, &v1alpha1.DeleteMicroVMRequest{Uid: uid})
	})
	if absent(err) {
		return nil
	}
	return err
}

// look asks for a look at the host soon.
func (d *daemon) look() {
	select {
	case d.poke <- struct{}{}:
	default:
	}
}

// unlikely is a namespace that nobody has: asking for it is the cheapest question that a host answers, and there is no
// health service.
const unlikely = "firerunner-asks-whether-you-live"

// probe asks for a sign of life.
func (d *daemon) probe(ctx context.Context) error {
	if _, err := d.list(ctx, unlikely, ""); err != nil {
		return d.fault(err, "asking it for a sign of life")
	}
	return nil
}
