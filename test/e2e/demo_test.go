package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/test/remains"
)

// demo is one "firerunner demo" as people run it: the released binary, with no flags.
type demo struct {
	t     *testing.T
	dir   string
	cmd   *exec.Cmd
	out   bytes.Buffer // read once it has ended
	ended chan struct{}

	installation string // empty until it has one
}

func startDemo(t *testing.T, flags ...string) *demo {
	t.Helper()
	if under.skip != "" {
		t.Skip(under.skip)
	}
	dir, err := os.MkdirTemp("/tmp", "fr-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o711))
	d := &demo{t: t, dir: dir, ended: make(chan struct{})}
	// Whoever runs the tests in the background may have SIGINT ignored, and so would the demo, until it listens to it.
	d.cmd = exec.Command("env", append([]string{"--default-signal=INT", under.released, "demo", "--timeout", patience.String()}, flags...)...)
	d.cmd.Dir, d.cmd.Stdout, d.cmd.Stderr = dir, &d.out, &d.out
	d.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "FIRERUNNER_STATE_DIR=" + filepath.Join(dir, "state"),
		"FIRERUNNER_IMAGE_DIR=" + under.imageDir, "FIRERUNNER_VM_ACCEL=" + under.accel,
		"FIRERUNNER_DEADLINES_BOOTING=8m", "FIRERUNNER_DEADLINES_READY=8m",
	}
	require.NoError(t, d.cmd.Start())
	go func() {
		defer close(d.ended)
		_ = d.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = d.cmd.Process.Kill()
		<-d.ended
		for _, p := range remains.Processes(dir) {
			_ = syscall.Kill(p.PID, syscall.SIGKILL)
		}
		if t.Failed() {
			t.Logf("the demo said:\n%s", d.out.String())
		}
		require.True(t, within(settled, func() bool { return os.RemoveAll(dir) == nil }))
	})
	return d
}

// wait returns the exit status, and requires that nothing is left.
func (d *demo) wait(limit time.Duration) int {
	d.t.Helper()
	select {
	case <-d.ended:
	case <-time.After(limit):
		require.Fail(d.t, "the demo does not end")
	}
	var left []string
	for _, p := range remains.Processes(d.dir) {
		left = append(left, fmt.Sprintf("process %d, %s", p.PID, p.Name()))
	}
	entries, err := os.ReadDir(filepath.Join(d.dir, "state"))
	require.True(d.t, err == nil || os.IsNotExist(err), err)
	for _, e := range entries {
		left = append(left, "in the state folder: "+e.Name())
	}
	for _, dir := range remains.Cgroups(d.installation) {
		left = append(left, "the control group "+dir)
	}
	require.Empty(d.t, left)
	return d.cmd.ProcessState.ExitCode()
}

// learn reads the installation's mark, which is gone when the demo is.
func (d *demo) learn() string {
	d.installation = strings.TrimSpace(readAll(filepath.Join(d.dir, "state", "demo", "installation")))
	return d.installation
}

// vms returns how many files microVMs have, and how many of these run.
func (d *demo) vms() (files, running int) {
	found, _ := filepath.Glob(filepath.Join(d.dir, "state", "demo", "vms", "*", "*"))
	for _, p := range remains.Processes(d.dir) {
		if strings.HasPrefix(p.Name(), "qemu-system") {
			running++
		}
	}
	return len(found), running
}

func TestDemo(t *testing.T) {
	t.Parallel()
	d := startDemo(t)
	require.True(t, within(patience, func() bool { return d.learn() != "" }))
	status := d.wait(patience)
	require.Zero(t, status)
	require.Contains(t, d.out.String(), "0 VMs, 0 runners, 0 overlays left")
	require.Contains(t, d.out.String(), "success")
}

// TestDemoFleet is make demo-fleet: the image goes through a registry to three hosts, the jobs through gRPC.
func TestDemoFleet(t *testing.T) {
	t.Parallel()
	d := startDemo(t, "--hosts", "3")
	require.True(t, within(patience, func() bool { return d.learn() != "" }))
	require.Zero(t, d.wait(patience))
	require.Contains(t, d.out.String(), "0 VMs, 0 runners, 0 overlays left")
	require.Regexp(t, `host-[123]`, d.out.String(), "no job ran on a host of the fleet")
}

// TestDemoInterrupted presses Ctrl-C at several moments.
func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	for _, moment := range []struct {
		name string
		came func(d *demo) bool
	}{
		{"AtOnce", func(*demo) bool { return true }},
		{"StateFolder", func(d *demo) bool { return exists(filepath.Join(d.dir, "state", "demo")) }},
		{"Database", func(d *demo) bool { return exists(filepath.Join(d.dir, "state", "demo", "firerunner.db")) }},
		{"MakingTheFirst", func(d *demo) bool { files, _ := d.vms(); return files > 0 }},
		{"JobRuns", func(d *demo) bool { return d.tookJob() }},
	} {
		t.Run(moment.name, func(t *testing.T) {
			d := startDemo(t)
			require.True(t, within(patience, func() bool { d.learn(); return moment.came(d) }), "the moment never came")
			require.NoError(t, d.cmd.Process.Signal(os.Interrupt))
			require.NotZero(t, d.wait(2*time.Minute), "an interrupted demo has not succeeded")
		})
	}
}

// tookJob says whether a guest has reported a job: see the file of its reports.
func (d *demo) tookJob() bool {
	reports, _ := filepath.Glob(filepath.Join(d.dir, "state", "demo", "vms", "*", "reports.jsonl"))
	return slices.ContainsFunc(reports, func(path string) bool { return strings.Contains(readAll(path), "took_job") })
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
