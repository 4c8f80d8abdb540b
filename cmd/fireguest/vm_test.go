package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/guest"
	"github.com/firerunner/firerunner/internal/image"
)

// testImage builds the agent as it is in this tree, gitlab-runner for tests, and an image of both. What does not
// change is kept below the user's cache, so that only the first run takes long.
func testImage(t *testing.T, recipe image.Recipe) firerunner.Image {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("no real microVM without QEMU: apt-get install qemu-system-x86")
	}
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	dir := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=test", "-o", dir+"/fireguest", ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command("sh", filepath.Join(root, "test/gitlabrunner/build.sh"), dir+"/gitlab-runner").CombinedOutput()
	require.NoError(t, err, "%s", out)

	cache := os.Getenv("FIRERUNNER_CACHE")
	if cache == "" {
		home, err := os.UserCacheDir()
		require.NoError(t, err)
		cache = filepath.Join(home, "firerunner")
	}
	recipe.AgentPath, recipe.RunnerPath = dir+"/fireguest", dir+"/gitlab-runner"
	b := &image.Builder{Store: &image.Store{Dir: filepath.Join(cache, "images")}}
	began := time.Now()
	built, err := b.Build(t.Context(), recipe, func(p image.Progress) {
		if p.Done {
			t.Logf("image: %-16s %5.1f s  %s", p.Step, p.Elapsed.Seconds(), p.Detail)
		}
	})
	require.NoError(t, err, firerunner.HintOf(err))
	_, err = b.Store.Prune(t.Context(), time.Now().Add(-time.Hour), nil) // what former agents were tested in
	require.NoError(t, err)
	t.Logf("image: %s in %.1f s", built.Digest[:19], time.Since(began).Seconds())
	return built
}

// tscKHz is the rate of this machine's time-stamp counter as the kernel tells it. QEMU's microvm has no timer to
// measure it against.
func tscKHz(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/cpuinfo")
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "cpu MHz" {
			return strings.ReplaceAll(strings.TrimSpace(value), ".", "")
		}
	}
	t.Fatal("no cpu MHz in /proc/cpuinfo")
	return ""
}

// vm is a running microVM under test.
type vm struct {
	began   time.Time
	console *consoleLog
	conn    net.Conn
	pid     int
	exited  chan error
	orders  chan firerunner.GuestOrder

	mu      sync.Mutex
	reports []firerunner.GuestReport
	cpu     []time.Duration // QEMU's processor time at each report
	changed chan struct{}
	served  chan error
}

// bootVM boots an image and speaks with its agent. Extra are more arguments for QEMU.
func bootVM(t *testing.T, img firerunner.Image, start firerunner.GuestStart, extra ...string) *vm {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "port.sock")
	cmdline := strings.TrimSpace("console=ttyS0 quiet panic=-1 reboot=t tsc_early_khz=" + tscKHz(t) + " tsc=reliable " + img.Cmdline + " " + os.Getenv("FIRERUNNER_TEST_CMDLINE"))
	args := []string{
		"-M", "microvm,rtc=on", "-accel", "tcg,tb-size=64", "-cpu", "max", "-m", "1024",
		"-kernel", img.Kernel, "-initrd", img.Initrd, "-append", cmdline,
		"-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio",
		"-drive", "id=d0,file=" + overlay(t, img, 20<<30) + ",format=qcow2,if=none,cache=unsafe", "-device", "virtio-blk-device,drive=d0",
		"-netdev", "user,id=n0,net=10.42.0.0/24,host=10.42.0.1,dns=10.42.0.3", "-device", "virtio-net-device,netdev=n0",
		"-object", "rng-random,id=r0,filename=/dev/urandom", "-device", "virtio-rng-device,rng=r0",
		"-chardev", "socket,id=c0,path=" + socket + ",server=on,wait=off",
		"-device", "virtio-serial-device", "-device", "virtserialport,chardev=c0,name=firerunner.0",
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	v := &vm{
		console: &consoleLog{}, exited: make(chan error, 1), orders: make(chan firerunner.GuestOrder, 2),
		changed: make(chan struct{}), served: make(chan error, 1), began: time.Now(),
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append(args, extra...)...)
	cmd.Stdout, cmd.Stderr = v.console, v.console
	require.NoError(t, cmd.Start())
	v.pid = cmd.Process.Pid
	go func() { v.exited <- cmd.Wait() }()
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			t.Logf("console:\n%s", v.console.text())
		}
	})
	v.conn = dial(t, socket)
	go func() { v.served <- guest.Serve(ctx, v.conn, start, v.report, v.orders) }()
	return v
}

// overlay makes a layer for one microVM on top of an image, larger than the image.
func overlay(t *testing.T, img firerunner.Image, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-b", img.RootFS, "-F", "raw", path, fmt.Sprint(size)).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// dial waits until QEMU listens.
func dial(t *testing.T, socket string) net.Conn {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn
		}
		require.True(t, time.Now().Before(end), "QEMU does not listen: %v", err)
	}
}

func (v *vm) report(r firerunner.GuestReport) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.reports, v.cpu = append(v.reports, r), append(v.cpu, processorTime(v.pid))
	close(v.changed)
	v.changed = make(chan struct{})
}

// processorTime is what a process has used of it, user and system: proc(5), fields 14 and 15 of stat, in ticks
// of a hundredth of a second. It shows the cost of a phase on a machine that has other work too.
func processorTime(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// wait waits for a report of a kind.
func (v *vm) wait(t *testing.T, kind firerunner.ReportKind) firerunner.GuestReport {
	t.Helper()
	limit := time.After(2 * time.Minute)
	for {
		v.mu.Lock()
		changed := v.changed
		for _, r := range v.reports {
			if r.Kind == kind {
				v.mu.Unlock()
				return r
			}
		}
		all := fmt.Sprintf("%+v", v.reports)
		v.mu.Unlock()
		select {
		case <-changed:
		case <-limit:
			require.Fail(t, "no report", "%s; there are %s", kind, all)
		}
	}
}

// all returns the reports of a kind.
func (v *vm) all(kind firerunner.ReportKind) []firerunner.GuestReport {
	v.mu.Lock()
	defer v.mu.Unlock()
	var found []firerunner.GuestReport
	for _, r := range v.reports {
		if r.Kind == kind {
			found = append(found, r)
		}
	}
	return found
}

// end waits for the end of QEMU and of the channel, and returns when QEMU ended.
func (v *vm) end(t *testing.T) time.Time {
	t.Helper()
	select {
	case err := <-v.exited:
		require.NoError(t, err)
	case <-time.After(2 * time.Minute):
		require.Fail(t, "the microVM does not end")
	}
	at := time.Now()
	require.NoError(t, <-v.served)
	return at
}

// consoleLog keeps what the guest writes to its console.
type consoleLog struct {
	mu sync.Mutex
	b  strings.Builder
}

var _ io.Writer = (*consoleLog)(nil)

func (c *consoleLog) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.b.Len() < 1<<20 {
		c.b.Write(p)
	}
	return len(p), nil
}

func (c *consoleLog) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.String()
}
