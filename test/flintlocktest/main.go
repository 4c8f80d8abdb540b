// Command flintlocktest is a host to try FireRunner with: an emulated flintlockd whose microVMs are real. See --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/firerunner/firerunner/internal/flintlocktest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "flintlocktest:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	var o options
	command := &cobra.Command{
		Use:   "flintlocktest",
		Short: "An emulated flintlockd whose microVMs are real",
		Long: `Listens as flintlockd does and behaves as flintlockd does, its mistakes included,
but needs neither containerd nor Firecracker nor KVM nor root: what a microVM asks
for is pulled from a registry and booted with QEMU. Use it to try FireRunner's
flintlock driver, or a client of your own, before there is a host.

  eth0 in the guest is the metadata service, http://169.254.169.254/latest/KEY
  eth1 is a network of its own: 10.42.0.0/24, gateway and DNS 10.42.0.1; the guest
       is 10.42.0.2, or the static address that its specification asks for
  ttyS0 is a file below --dir, or GET /vms/UID/console on --control

What it needs: qemu-system-x86_64, qemu-img and mkfs.ext4. Image references have to
be complete, as for flintlockd: registry.example.com/name:tag. Registries at
127.0.0.1 and localhost are spoken to in plain HTTP.

It ends with Ctrl-C, and every microVM with it. Nothing is kept but the cache.`,
		Example: `  # a host, and a FireRunner that uses it (config.yaml: flintlock.endpoint: 127.0.0.1:9090)
  flintlocktest --listen 127.0.0.1:9090 --route gitlab:80=127.0.0.1:8080

  # what is on it, what a guest printed, and what breaks next
  flintlocktest --control 127.0.0.1:9091
  curl -s 127.0.0.1:9091/vms
  curl -s 127.0.0.1:9091/vms/UID/console
  curl -s 127.0.0.1:9091/faults -d '{"action": "stuck_delete", "count": 1}'
  curl -s -X POST 127.0.0.1:9091/power-off

  # no machines at all, only the API: every image exists and guests do nothing
  flintlocktest --accel none`,
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(command *cobra.Command, _ []string) error { return o.run(command) },
	}
	f := command.Flags()
	f.StringVar(&o.listen, "listen", "127.0.0.1:9090", "listen for gRPC at this `address`")
	f.StringVar(&o.control, "control", "", "listen for what tests do to a host at this `address`, which has to be loopback; see the examples")
	f.StringVar(&o.dir, "dir", "", "keep consoles and disks of microVMs in this `folder` (default: a new one that is removed at the end)")
	f.StringVar(&o.cache, "cache", "", "keep pulled images in this `folder` (default: flintlocktest in the user's cache)")
	f.StringVar(&o.tokenFile, "token-file", "", "ask every call for the token in this `file` (flintlockd: --basic-auth-token)")
	f.StringVar(&o.tlsCert, "tls-cert", "", "speak TLS 1.3 with the certificate in this `file`")
	f.StringVar(&o.tlsKey, "tls-key", "", "the certificate's key, a `file`")
	f.StringVar(&o.tlsClientCA, "tls-client-ca", "", "ask clients for a certificate of the authority in this `file`")
	f.StringArrayVar(&o.insecure, "registry-insecure", nil, "speak plain HTTP to the registry at this `host:port`; may be repeated")
	f.StringVar(&o.accel, "accel", "tcg", "tcg emulates, kvm does not, none boots nothing")
	f.StringVar(&o.capacity, "capacity", "", "carry no more than this, as `VCPUS:MIB`, such as 8:16384 (default: no limit)")
	f.IntVar(&o.volumeMiB, "volume-size", 4096, "size of every disk in `MIB`")
	f.StringArrayVar(&o.routes, "route", nil, "let guests reach `NAME:PORT=HOST:PORT`, a service that this machine reaches; may be repeated")
	f.BoolVar(&o.public, "public", false, "let guests reach public addresses of the Internet")
	f.DurationVar(&o.retryDelay, "retry-delay", 20*time.Second, "wait n times this after the nth failure of a microVM")
	f.DurationVar(&o.resync, "resync-period", 10*time.Minute, "look at every microVM this often, and start those again that have ended")
	f.DurationVar(&o.restartAfter, "restart-after", time.Second, "start again so soon after a crash, as a supervisor does")
	return command
}

// run serves until the command's context ends.
func (o *options) run(command *cobra.Command) (err error) {
	log := slog.New(slog.NewTextHandler(command.ErrOrStderr(), nil))
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "flintlocktest-"); err != nil {
			return fmt.Errorf("making a folder for microVMs: %w", err)
		}
		defer os.RemoveAll(o.dir)
	}
	cfg, err := o.config(log)
	if err != nil {
		return err
	}
	srv, err := flintlocktest.Start(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.Close()) }()
	fmt.Fprintln(command.OutOrStdout(), "listening on", srv.Addr())
	if o.control == "" {
		<-command.Context().Done()
		return nil
	}
	return o.serveControl(command, srv)
}

// serveControl serves srv.Control until the command's context ends. It asks nobody who they are, so only this machine
// may reach it.
func (o *options) serveControl(command *cobra.Command, srv *flintlocktest.Server) error {
	at, err := net.ResolveTCPAddr("tcp", o.control)
	if err == nil && !at.IP.IsLoopback() {
		err = errors.New("not a loopback address")
	}
	if err != nil {
		return fmt.Errorf("--control %s: %w", o.control, err)
	}
	listener, err := net.ListenTCP("tcp", at)
	if err != nil {
		return fmt.Errorf("--control %s: %w", o.control, err)
	}
	fmt.Fprintln(command.OutOrStdout(), "control on", "http://"+listener.Addr().String())
	server := &http.Server{Handler: srv.Control(), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(command.Context(), func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving --control: %w", err)
	}
	return nil
}
