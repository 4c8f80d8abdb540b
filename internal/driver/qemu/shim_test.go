package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/drivertest"
)

// shimHere runs a shim in this process, without a driver, so that what it answers can be looked at.
type shimHere struct {
	answer answer
	client *shimClient
	dir    string
	done   chan error
	cancel context.CancelFunc
}

// closer is an Out that tells when it is closed.
type closer struct {
	bytes.Buffer
	closed chan struct{}
}

func (c *closer) Close() error {
	close(c.closed)
	return nil
}

func runHere(t *testing.T, image firerunner.Image, change func(*shimSpec, *Shim)) *shimHere {
	t.Helper()
	mask := unix.Umask(0)
	unix.Umask(mask)
	t.Cleanup(func() { unix.Umask(mask) })
	d := newDriver(t, nil)
	dir := stateDir(t)
	spec, err := d.shimSpec(t.Context(), newSpec("here", image))
	require.NoError(t, err)
	spec.Dir, spec.StopGrace = dir, 2*time.Second
	out := &closer{closed: make(chan struct{})}
	s := Shim{Out: out, Guest: drivertest.Guest}
	if change != nil {
		change(&spec, &s)
	}
	told, err := json.Marshal(spec)
	require.NoError(t, err)
	if s.In == nil {
		s.In = bytes.NewReader(told)
	}
	ctx, cancel := context.WithCancel(t.Context())
	was, err := os.Getwd()
	require.NoError(t, err)
	h := &shimHere{dir: dir, done: make(chan error, 1), cancel: cancel, client: newShimClient(filepath.Join(dir, socketFile), os.Getuid())}
	finished := make(chan struct{})
	t.Cleanup(func() {
		cancel()
		<-finished
		require.NoError(t, os.Chdir(was))
	})
	go func() {
		defer close(finished)
		h.done <- RunShim(ctx, s)
	}()
	select {
	case <-out.closed:
		h.answer, err = readAnswer(&out.Buffer)
		require.NoError(t, err)
	case err := <-h.done:
		h.done <- err
	case <-time.After(time.Minute):
		t.Fatal("the shim does not answer")
	}
	return h
}

func (h *shimHere) ended(t *testing.T) error {
	t.Helper()
	select {
	case err := <-h.done:
		return err
	case <-time.After(time.Minute):
		t.Fatal("the shim does not end")
		return nil
	}
}

func TestRunShimOK(t *testing.T) {
	needQEMU(t)
	h := runHere(t, drivertest.Image(t), nil)
	require.NoError(t, h.answer.err())
	s, err := h.client.state(t.Context())
	require.NoError(t, err)
	require.True(t, s.Started)
	require.False(t, s.Ended)
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(h.client.post(t.Context(), "order?name=finish")), "before hello")
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(h.client.post(t.Context(), "order?name=dance")))
	_, err = h.client.call(t.Context(), http.MethodGet, "reports?after=x")
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
	_, err = h.client.call(t.Context(), http.MethodGet, "nothing")
	require.Error(t, err)

	body, err := h.client.call(t.Context(), http.MethodGet, "reports?after=0")
	require.NoError(t, err)
	defer body.Close()
	first := make([]byte, 40)
	_, err = io.ReadFull(body, first) // comes once the guest says hello
	require.NoError(t, err)
	require.NoError(t, h.client.post(t.Context(), "order?name=finish"))
	rest, err := io.ReadAll(body)
	require.NoError(t, err)
	require.Contains(t, string(rest), `"exited"`)
	s, err = h.client.state(t.Context())
	require.NoError(t, err)
	require.True(t, s.Ended, "it stays until its reports were read")
	require.NoError(t, h.client.post(t.Context(), "destroy"))
	require.NoError(t, h.ended(t))
	require.NoFileExists(t, filepath.Join(h.dir, socketFile))
}

func TestRunShimContext(t *testing.T) {
	needQEMU(t)
	h := runHere(t, drivertest.Image(t), nil)
	require.NoError(t, h.answer.err())
	h.cancel()
	require.NoError(t, h.ended(t))
	reports, err := os.ReadFile(filepath.Join(h.dir, reportsFile))
	require.NoError(t, err)
	require.Contains(t, string(reports), string(causeShutdown))
}

// TestRunShimRooms: what is injected may fail or hang, and the microVM is told of it all the same.
func TestRunShimRooms(t *testing.T) {
	needQEMU(t)
	image := drivertest.Image(t)
	guest := func(ctx context.Context, _ io.ReadWriteCloser, start firerunner.GuestStart, _ func(firerunner.GuestReport), _ <-chan firerunner.GuestOrder) error {
		if start.Network != testNetwork || start.Token.Reveal() != testToken {
			return firerunner.Errorf(firerunner.Internal, "the start is not what it should be")
		}
		return firerunner.Errorf(firerunner.Invalid, "the guest speaks nonsense")
	}
	h := runHere(t, image, func(spec *shimSpec, s *Shim) {
		spec.Deadline = time.Now().Add(5 * time.Second)
		s.Guest, s.GuestNetwork = guest, testNetwork
		s.Network = func(firerunner.NetworkPolicy) (Network, error) {
			return servedBy(func(ctx context.Context, _ net.Conn) error {
				<-ctx.Done() // it does not see that its connection has ended
				return nil
			}), nil
		}
	})
	require.NoError(t, h.answer.err())
	require.NoError(t, h.ended(t))
	reports, err := os.ReadFile(filepath.Join(h.dir, reportsFile))
	require.NoError(t, err)
	require.Contains(t, string(reports), "guest channel ended: the guest speaks nonsense")
	require.Contains(t, string(reports), string(causeDeadline))
	require.NotContains(t, string(reports), testToken)
}

// TestRunShimOutside: a microVM without an agent is over when whoever provisions it is done with it.
func TestRunShimOutside(t *testing.T) {
	needQEMU(t)
	network := &offering{servedBy: func(ctx context.Context, conn net.Conn) error { _, err := io.Copy(io.Discard, conn); return err }}
	h := runHere(t, drivertest.Image(t), func(spec *shimSpec, s *Shim) {
		spec.Provision = firerunner.ProvisionSSH
		s.GuestNetwork, s.Guest = testNetwork, func(context.Context, io.ReadWriteCloser, firerunner.GuestStart, func(firerunner.GuestReport), <-chan firerunner.GuestOrder) error {
			return errors.New("there is no channel")
		}
		s.Network = func(firerunner.NetworkPolicy) (Network, error) { return network, nil }
		s.Outside = func(string, firerunner.MicroVMSpec) (firerunner.Outside, error) {
			return firerunner.Outside{Run: func(_ context.Context, way firerunner.OutsideWay) error {
				if way.Start.Token.Reveal() != testToken || way.Start.Network != testNetwork {
					return errors.New("the start is not what it should be")
				}
				way.Report(firerunner.GuestReport{Kind: firerunner.ReportHello, Message: "over SSH"})
				order := <-way.Orders
				way.Report(firerunner.GuestReport{Kind: firerunner.ReportError, Message: "step \"connect\": " + string(order)})
				return errors.New("it cannot be")
			}}, nil
		}
	})
	require.NoError(t, h.answer.err())
	body, err := h.client.call(t.Context(), http.MethodGet, "reports?after=0")
	require.NoError(t, err)
	defer body.Close()
	first := make([]byte, 40)
	_, err = io.ReadFull(body, first) // hello
	require.NoError(t, err)
	require.NoError(t, h.client.post(t.Context(), "order?name=stop"))
	rest, err := io.ReadAll(body)
	require.NoError(t, err)
	require.Contains(t, string(rest), `step \"connect\": stop`)
	require.Contains(t, string(rest), `"exited"`)
	require.NoError(t, h.client.post(t.Context(), "destroy"))
	require.NoError(t, h.ended(t))
}

func TestRunShimErrors(t *testing.T) {
	needQEMU(t)
	image := drivertest.Image(t)
	for name, c := range map[string]struct {
		change func(*shimSpec, *Shim)
		code   firerunner.Code
		says   string
	}{
		"ErrNoGuest": {func(_ *shimSpec, s *Shim) { s.Guest = nil }, firerunner.Internal, "nobody"},
		"ErrNoSpec":  {func(_ *shimSpec, s *Shim) { s.In = strings.NewReader("") }, firerunner.Invalid, "EOF"},
		"ErrID":      {func(spec *shimSpec, _ *Shim) { spec.ID = "../x" }, firerunner.Invalid, "id"},
		"ErrDir":     {func(spec *shimSpec, _ *Shim) { spec.Dir = "here" }, firerunner.Invalid, "absolute"},
		"ErrNoDir":   {func(spec *shimSpec, _ *Shim) { spec.Dir = "/no/such/folder" }, firerunner.Unavailable, "folder"},
		"ErrImage":   {func(spec *shimSpec, _ *Shim) { spec.Image.RootFS = "/no/such/root" }, firerunner.Invalid, "/no/such/root"},
		"ErrQEMU":    {func(spec *shimSpec, _ *Shim) { spec.QEMU = "/no/such/qemu" }, firerunner.Unavailable, "starting qemu"},
		"ErrQEMUImg": {func(spec *shimSpec, _ *Shim) { spec.QEMUImg = "/bin/false" }, firerunner.Unavailable, "making the disk"},
		"ErrNetwork": {func(_ *shimSpec, s *Shim) {
			s.Network = func(firerunner.NetworkPolicy) (Network, error) { return servedBy(nil), nil }
		}, firerunner.Internal, "network"},
		"ErrNetworkPolicy": {func(_ *shimSpec, s *Shim) {
			s.GuestNetwork = testNetwork
			s.Network = func(firerunner.NetworkPolicy) (Network, error) {
				return nil, firerunner.Errorf(firerunner.Invalid, "two routes for one name")
			}
		}, firerunner.Invalid, "two routes"},
		"ErrNoOutside": {func(spec *shimSpec, _ *Shim) { spec.Provision = firerunner.ProvisionSSH }, firerunner.Internal, "over SSH"},
	} {
		t.Run(name, func(t *testing.T) {
			h := runHere(t, image, c.change)
			err := h.ended(t)
			require.Equal(t, c.code, firerunner.CodeOf(err), "%v", err)
			require.ErrorContains(t, err, c.says)
			require.NoFileExists(t, filepath.Join(h.dir, socketFile))
			if h.answer.Error != "" {
				require.Equal(t, err.Error(), h.answer.Error)
			}
		})
	}
}

// TestClientRefusesOthers: a path in a microVM's folder may lead to somebody else's socket.
func TestClientRefusesOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer listener.Close()
	_, err = newShimClient(path, os.Getuid()+1).state(t.Context())
	require.ErrorContains(t, err, "belongs to uid")
}

// testDial is a stranger's process: it exits with 0 if the socket's owner speaks with it.
func testDial(path string) int {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return 2
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return 3
	}
	return 0
}

// TestServerRefusesOthers: only root and the shim's own uid may speak with a shim.
func TestServerRefusesOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	dir := stateDir(t)
	path := filepath.Join(dir, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	require.NoError(t, err)
	require.NoError(t, os.Chmod(path, 0o777))
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := (peers{listener}).Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("x"))
			_ = conn.Close()
		}
	}()
	for uid, want := range map[uint32]int{0: 0, 1_899_998_000: 3} {
		self, err := os.Open("/proc/self/exe")
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, "/proc/self/fd/3", "dial", path)
		cmd.ExtraFiles = []*os.File{self}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		_ = cmd.Run()
		cancel()
		require.NoError(t, self.Close())
		require.Equal(t, want, cmd.ProcessState.ExitCode(), "uid %d", uid)
	}
	require.NoError(t, listener.Close())
	<-served
}
