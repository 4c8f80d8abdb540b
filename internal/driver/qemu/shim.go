package qemu

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
)

// shimLogBytes is the most that a shim logs.
const shimLogBytes = 256 << 10

// Shim is what the process that holds one microVM is made of. Network and Guest come from other rooms.
type Shim struct {
	In  io.Reader // the spec, from the daemon; nil = standard input
	Out io.Writer // one line of answer to the daemon; nil = standard output

	// Network makes the guest's network. nil = the guest has no network interface.
	Network func(policy firerunner.NetworkPolicy) (Network, error)

	// GuestNetwork is how the guest sets up its interface, for starts that do not say it themselves.
	GuestNetwork firerunner.GuestNetwork

	// Guest speaks with the guest on its channel until ctx is done or conn is closed. It tells each report and
	// passes on each order. It need not bound or number the reports.
	Guest func(ctx context.Context, conn io.ReadWriteCloser, start firerunner.GuestStart,
		report func(firerunner.GuestReport), orders <-chan firerunner.GuestOrder) error

	// Outside stands in for the agent of a microVM whose image has none. nil = such microVMs are refused.
	Outside func(host string, spec firerunner.MicroVMSpec) (firerunner.Outside, error)

	Logger *slog.Logger // nil = JSON to standard error, at most 256 KiB
}

// Network is the network of one microVM. Package network has one.
type Network interface {
	// Serve serves the guest's Ethernet frames until ctx is done or conn is closed: each frame on conn comes after its
	// length in 4 bytes, most significant first.
	Serve(ctx context.Context, conn net.Conn) error
	// Dial connects to a TCP port of the guest.
	Dial(ctx context.Context, port int) (net.Conn, error)
	// Offer has the guest's connections to an address served here until withdraw is called, which returns once none is
	// served any more.
	Offer(at netip.AddrPort, serve func(ctx context.Context, conn net.Conn)) (withdraw func())
	// Close ends it, and waits for all that runs in it.
	Close() error
}

// RunShim makes and holds one microVM. It returns once the microVM has ended and was destroyed, or nobody
// came for its reports in time; cancelling ctx ends the microVM. It must have a process of its own: it sets the
// process's umask and limits.
func RunShim(ctx context.Context, s Shim) error {
	if s.In == nil {
		s.In = os.Stdin
	}
	if s.Out == nil {
		s.Out = os.Stdout
	}
	if s.Logger == nil {
		s.Logger = slog.New(slog.NewJSONHandler(NewCappedWriter(os.Stderr, shimLogBytes), nil))
	}
	if s.Guest == nil {
		return firerunner.Errorf(firerunner.Internal, "shim: there is nobody to speak with the guest")
	}
	// The daemon may be gone when we answer it.
	signal.Ignore(syscall.SIGPIPE)
	unix.Umask(0o077)
	// The token is in this process's memory: no core files.
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})

	spec, err := readSpec(s.In)
	if err != nil {
		return firerunner.Errorf(firerunner.Invalid, "shim: %w", err)
	}
	h := &holder{
		shim: s, spec: spec, log: s.Logger.With("vm", spec.ID), orders: make(chan firerunner.GuestOrder),
		destroy: make(chan struct{}), began: make(chan struct{}), ended: make(chan struct{}), deaf: make(chan struct{}),
	}
	err = h.begin(ctx)
	line, _ := json.Marshal(answerOf(err))
	_, _ = s.Out.Write(append(line, '\n'))
	if closer, ok := s.Out.(io.Closer); ok {
		_ = closer.Close()
	}
	if err != nil {
		return err
	}
	return h.hold(ctx)
}
