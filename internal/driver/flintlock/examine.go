package flintlock

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

// api is the service that we speak, as reflection names it.
const api = "microvm.services.api.v1alpha1.MicroVM"

// Examination is one host looked at by itself, without a Driver. It belongs to one goroutine.
type Examination struct {
	cfg    Config
	daemon *daemon
}

// Examine makes the way to a host; nothing is sent yet. Of cfg, only the timeouts are needed.
func Examine(cfg Config, h Host) (*Examination, error) {
	if err := checkHosts([]Host{h}); err != nil {
		return nil, err
	}
	d, err := newDaemon(h, cfg.withDefaults())
	if err != nil {
		return nil, err
	}
	return &Examination{cfg: cfg.withDefaults(), daemon: d}, nil
}

// Close ends the connection.
func (x *Examination) Close() error { return x.daemon.conn.Close() }

// Alive asks for a sign of life, with the token.
func (x *Examination) Alive(ctx context.Context) error { return x.daemon.probe(ctx) }

// Services returns what the host's gRPC server says that it serves, by reflection
// (https://grpc.io/docs/guides/reflection/); ok = false if the API that we speak is not among it.
func (x *Examination) Services(ctx context.Context) (names []string, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, x.cfg.CallTimeout)
	defer cancel()
	const doing = "asking which API it serves"
	stream, err := reflection.NewServerReflectionClient(x.daemon.conn).ServerReflectionInfo(ctx)
	if err != nil {
		return nil, false, x.daemon.fault(err, doing)
	}
	if err := stream.Send(&reflection.ServerReflectionRequest{
		MessageRequest: &reflection.ServerReflectionRequest_ListServices{ListServices: "*"},
	}); err != nil && !errors.Is(err, io.EOF) { // EOF: it has ended, and Recv says how
		return nil, false, x.daemon.fault(err, doing)
	}
	answer, err := stream.Recv()
	if err != nil {
		return nil, false, x.daemon.fault(err, doing)
	}
	for _, s := range answer.GetListServicesResponse().GetService() {
		if name := s.GetName(); len(names) < 100 && len(name) < 200 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, slices.Contains(names, api), nil
}

// Images returns what the host would pull for an image, the kernel first.
func (x *Examination) Images(image firerunner.Image) []string {
	oci := x.daemon.image(image)
	refs := []string{oci.Kernel, oci.Initrd, oci.RootFS}
	slices.Sort(refs)
	return slices.DeleteFunc(slices.Compact(refs), func(ref string) bool { return ref == "" })
}

// until looks at a microVM again and again.
func (x *Examination) until(ctx context.Context, uid, doing string, done func(vm *types.MicroVM, there bool) (bool, error)) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		vm, there, err := x.daemon.get(ctx, uid)
		if err != nil {
			return x.daemon.fault(err, doing)
		}
		if ok, err := done(vm, there); err != nil {
			return firerunner.Errorf(firerunner.Conflict, "host %s: %s: %w", x.daemon.Name, doing, err).
				WithHint("flintlockd's log on %s says why: an image that cannot be pulled, a thin pool that is full, a bridge that is not there", x.daemon.Name)
		} else if ok {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return firerunner.Errorf(firerunner.Unavailable, "host %s: %s: %w", x.daemon.Name, doing, context.Cause(ctx))
		}
	}
}
