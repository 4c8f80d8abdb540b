package qemu

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/drivertest"
)

// TestMain lets this binary be a shim, as the product's binary is, and a daemon that a test can kill.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "shim":
		os.Exit(testShim())
	case len(os.Args) > 1 && os.Args[1] == "daemon":
		os.Exit(testDaemon())
	case len(os.Args) > 2 && os.Args[1] == "dial":
		os.Exit(testDial(os.Args[2]))
	}
	goleak.VerifyTestMain(m)
}

// testNetwork is the guest's network in the tests: it writes down the first frame that comes.
var testNetwork = firerunner.GuestNetwork{Address: "10.42.0.2/24", Gateway: "10.42.0.1", MAC: "52:54:00:12:34:56", MTU: 1500}

// servedBy is a network of which only the frames are served.
type servedBy func(ctx context.Context, conn net.Conn) error

func (s servedBy) Serve(ctx context.Context, conn net.Conn) error { return s(ctx, conn) }
func (servedBy) Close() error                                     { return nil }

func (servedBy) Dial(context.Context, int) (net.Conn, error) {
	return nil, firerunner.Errorf(firerunner.Unavailable, "nobody listens")
}

func (servedBy) Offer(netip.AddrPort, func(context.Context, net.Conn)) (withdraw func()) {
	return func() {}
}

func testShim() int {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	err := RunShim(ctx, Shim{
		GuestNetwork: testNetwork,
		Guest:        drivertest.Guest,
		Network: func(policy firerunner.NetworkPolicy) (Network, error) {
			return servedBy(func(_ context.Context, conn net.Conn) error {
				head := make([]byte, 4+14) // a length, and an Ethernet header
				if _, err := io.ReadFull(conn, head); err == nil {
					_ = os.WriteFile("frame", fmt.Appendf(nil, "%x public=%t", head, policy.Public), 0o600)
				}
				_, err := io.Copy(io.Discard, conn)
				return err
			}), nil
		},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// needQEMU skips where QEMU is not installed, and nowhere else.
func needQEMU(t *testing.T) {
	t.Helper()
	for _, program := range []string{"qemu-system-x86_64", "qemu-img"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("real microVMs need QEMU, and it is not installed here: %v", err)
		}
	}
}

// stateDir is a short path that every uid can pass.
func stateDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fr-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o711))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// newDriver returns a driver with a state folder of its own.
func newDriver(t testing.TB, change func(*Config)) *Driver {
	t.Helper()
	cfg := Config{StateDir: stateDir(t), Accel: AccelTCG, Host: "here"}
	if change != nil {
		change(&cfg)
	}
	d, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		vms, err := d.List(context.Background())
		require.NoError(t, err)
		for _, vm := range vms {
			require.NoError(t, d.Destroy(context.Background(), vm.ID))
		}
		require.NoError(t, d.Close())
		for _, tree := range d.cgroups.trees {
			require.NoDirExists(t, tree.dir)
		}
	})
	return d
}

func newSpec(id string, image firerunner.Image) firerunner.MicroVMSpec {
	return firerunner.MicroVMSpec{
		ID: id, Host: "here", Size: firerunner.Size{VCPUs: 1, MemoryMiB: 256, DiskMiB: 16}, Image: image,
		Start:    firerunner.GuestStart{GitLabURL: "http://gitlab.test", Token: testToken, CA: strings.Repeat("CA", 100)},
		Deadline: time.Now().Add(5 * time.Minute),
	}
}

// testToken can be searched for where it must not be.
const testToken = "glrt-very-secret-token-1234"

// leftovers looks for everything that a microVM has on the host, by other means than the driver's.
func leftovers(t *testing.T, d *Driver, id string) []string {
	t.Helper()
	var left []string
	files, err := filepath.Glob(filepath.Join(string(d.vms), id+"*"))
	require.NoError(t, err)
	left = append(left, files...)
	for _, tree := range d.cgroups.trees {
		if _, err := os.Stat(filepath.Join(tree.dir, id)); err == nil {
			left = append(left, filepath.Join(tree.dir, id))
		}
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, path := range lines {
		line, _ := os.ReadFile(path)
		if strings.Contains(string(line), "\x00"+id+"\x00") {
			left = append(left, path+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
		if env, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "environ")); strings.Contains(string(env), d.vms.dir(id)) {
			left = append(left, path+" in its folder")
		}
	}
	return left
}
