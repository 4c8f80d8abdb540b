package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/drivertest"
)

// daemonOrder is what a test tells the daemon that it kills.
type daemonOrder struct {
	Config  Config
	Spec    firerunner.MicroVMSpec
	Destroy bool
	DieAt   string // the step at which it kills itself with SIGKILL
}

// testDaemon is a daemon that dies at a step of Create or Destroy, the hard way: nothing of it is cleaned up.
func testDaemon() int {
	var o daemonOrder
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	o.Config.crash = func(step string) {
		if step == o.DieAt {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	d, err := New(o.Config)
	if err == nil && o.Destroy {
		err = d.Destroy(context.Background(), o.Spec.ID)
	} else if err == nil {
		_, err = d.Create(context.Background(), o.Spec)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// daemon runs a daemon to its death at a step.
func daemon(t *testing.T, o daemonOrder) {
	t.Helper()
	told, err := json.Marshal(o)
	require.NoError(t, err)
	input, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer input.Close()
	_, err = input.Write(told)
	require.NoError(t, err)
	_, err = input.Seek(0, 0)
	require.NoError(t, err)
	output, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer output.Close()
	// Files, not pipes: a shim that lives on must not keep Wait waiting.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "daemon")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = input, output, output
	err = cmd.Run()
	said, _ := os.ReadFile(output.Name())
	require.Error(t, err, "the daemon did not come to step %q: %s", o.DieAt, said)
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	require.True(t, status.Signaled() && status.Signal() == syscall.SIGKILL, "the daemon failed before step %q: %s", o.DieAt, said)
}

// TestCreateAfterCrash kills the daemon between any two steps of Create. A new one must then know what is there,
// Create must give one whole microVM, and Destroy must leave nothing.
func TestCreateAfterCrash(t *testing.T) {
	needQEMU(t)
	image := drivertest.Image(t)
	for _, c := range []struct {
		step   string
		listed bool // something is there: List says so
		same   bool // the microVM of the first Create lives and is the one that the second returns
	}{
		{step: "create: locked"},
		{step: "create: clean"},
		{step: "create: recorded", listed: true},
		{step: "create: folder", listed: true},
		{step: "create: cgroup", listed: true},
		{step: "create: shim started", listed: true},
		{step: "create: shim recorded", listed: true},
		{step: "create: started", listed: true, same: true},
		{step: "create: made", listed: true, same: true},
	} {
		for _, next := range []string{"create", "destroy"} {
			t.Run(filepath.Base(c.step)+"/"+next, func(t *testing.T) {
				d := newDriver(t, nil)
				spec := newSpec("crash", image)
				daemon(t, daemonOrder{Config: bare(d.cfg), Spec: spec, DieAt: c.step})

				vms, err := d.List(t.Context())
				require.NoError(t, err)
				require.Equal(t, c.listed, len(vms) == 1, "%+v", vms)
				if c.same {
					require.True(t, vms[0].Alive)
				}
				if next == "destroy" {
					require.NoError(t, d.Destroy(t.Context(), spec.ID))
					require.Empty(t, leftovers(t, d, spec.ID))
					return
				}
				before, _ := d.vms.readRecord(spec.ID)
				vm, err := d.Create(t.Context(), spec)
				require.NoError(t, err)
				require.True(t, vm.Alive)
				after, _ := d.vms.readRecord(spec.ID)
				require.Equal(t, phaseMade, after.Phase)
				require.Equal(t, c.same, before.PID == after.PID && before.CreatedAt.Equal(after.CreatedAt))
				if c.same { // the others are microVMs like any other
					hello(t, d, spec.ID)
				}
				require.NoError(t, d.Destroy(t.Context(), spec.ID))
				require.Empty(t, leftovers(t, d, spec.ID))
			})
		}
	}
	// Between telling the spec and the answer the shim may or may not have come to start qemu. Both are right.
	t.Run("create: spec told", func(t *testing.T) {
		d := newDriver(t, nil)
		spec := newSpec("crash", image)
		daemon(t, daemonOrder{Config: bare(d.cfg), Spec: spec, DieAt: "create: spec told"})
		vm, err := d.Create(t.Context(), spec)
		require.NoError(t, err)
		require.True(t, vm.Alive)
		hello(t, d, spec.ID)
		require.NoError(t, d.Destroy(t.Context(), spec.ID))
		require.Empty(t, leftovers(t, d, spec.ID))
	})
}

// TestDestroyAfterCrash kills the daemon between any two steps of Destroy.
func TestDestroyAfterCrash(t *testing.T) {
	needQEMU(t)
	image := drivertest.Image(t)
	for _, c := range []struct {
		step   string
		listed bool
	}{
		{"destroy: locked", true},
		{"destroy: marked", true},
		{"destroy: asked", true},
		{"destroy: shim ended", true},
		{"destroy: processes ended", true},
		{"destroy: cgroup removed", true},
		{"destroy: folder removed", false},
	} {
		t.Run(filepath.Base(c.step), func(t *testing.T) {
			d := newDriver(t, nil)
			spec := newSpec("crash", image)
			_, err := d.Create(t.Context(), spec)
			require.NoError(t, err)
			daemon(t, daemonOrder{Config: bare(d.cfg), Spec: spec, Destroy: true, DieAt: c.step})

			vms, err := d.List(t.Context())
			require.NoError(t, err)
			require.Equal(t, c.listed, len(vms) == 1, "%+v", vms)
			if c.listed {
				require.Equal(t, c.step == "destroy: locked", vms[0].Alive, "one that is being destroyed is not alive")
			}
			require.NoError(t, d.Destroy(t.Context(), spec.ID))
			require.Empty(t, leftovers(t, d, spec.ID))
		})
	}
}

// bare is a configuration that can be told to another process.
func bare(cfg Config) Config {
	cfg.Logger, cfg.Now, cfg.crash = nil, nil, nil
	return cfg
}

// hello waits until the guest has said hello.
func hello(t *testing.T, d *Driver, id string) { until(t, d, id, firerunner.ReportHello) }

// until follows a microVM until a kind of report comes, and returns all reports up to it.
func until(t testing.TB, d *Driver, id string, kind firerunner.ReportKind) (got []firerunner.GuestReport) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stop := fmt.Errorf("came: %s", kind)
	err := d.Follow(ctx, id, 0, func(r firerunner.GuestReport) error {
		got = append(got, r)
		if r.Kind == kind {
			return stop
		}
		return nil
	})
	require.ErrorIs(t, err, stop, "%+v", got)
	return got
}
