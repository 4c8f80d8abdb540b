package qemu

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/drivertest"
)

// smallDisk makes the state folder a file system of its own with so many MiB. It is for root only, as mounting is.
func smallDisk(t *testing.T, dir string, mib string) {
	t.Helper()
	require.NoError(t, unix.Mount("firerunner-test", dir, "tmpfs", 0, "size="+mib+"m,mode=0711"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
}

// The host has no room for what a guest writes: the guest ends, its end says why, and its room is free again.
func TestDiskFull(t *testing.T) {
	needQEMU(t)
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	image := drivertest.Image(t)
	dir := stateDir(t)
	smallDisk(t, dir, "24")
	d := newDriver(t, func(c *Config) { c.StateDir, c.MinFreeMiB = dir, 16 })
	require.NoError(t, d.ProbeHost(t.Context(), "here"))
	id := scripted(t, d, image, "fill-disk", nil)
	end := last(until(t, d, id, firerunner.ReportExited))
	require.Contains(t, end.Message, "the disk of its host is full: no room for what the guest wrote to its disk, in "+d.vms.dir(id))
	require.NoFileExists(t, filepath.Join(d.vms.dir(id), overlayFile))
	require.NoError(t, d.ProbeHost(t.Context(), "here"), "its room is free again")
	require.NoError(t, d.Destroy(t.Context(), id))

	// Before it is full: no other microVM is made, and the host says so.
	ballast := filepath.Join(dir, "ballast")
	require.NoError(t, os.WriteFile(ballast, make([]byte, 10<<20), 0o600))
	for _, err := range []error{d.ProbeHost(t.Context(), "here"), func() error {
		_, err := d.Create(t.Context(), newSpec("vm-refused", image))
		return err
	}()} {
		require.Equal(t, firerunner.Exhausted, firerunner.CodeOf(err))
		require.ErrorContains(t, err, "less than 16 MiB free in "+string(d.vms))
		require.Equal(t, "make room there, or lower scheduler.min_free_disk_mb", firerunner.HintOf(err))
	}
	require.Empty(t, leftovers(t, d, "vm-refused"))
	require.NoError(t, os.Truncate(ballast, 7<<20))
	require.Error(t, d.ProbeHost(t.Context(), "here"), "an eighth more, so that it does not come and go")
	require.NoError(t, os.Remove(ballast))
	require.NoError(t, d.ProbeHost(t.Context(), "here"))
}
