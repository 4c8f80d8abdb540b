package qemu

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// checkFacts reads what the guest says about its machine: 2 vCPUs and 300 MiB.
func checkFacts(t *testing.T, report firerunner.GuestReport) {
	facts := report.Message
	require.Contains(t, facts, "cpus=2 ")
	require.Contains(t, facts, "rng=virtio_rng.0 ")
	require.Contains(t, facts, "clock=tsc") // tsc-early until it has been refined
	_, rest, _ := strings.Cut(facts, "memory=")
	memory, _, _ := strings.Cut(rest, "MiB")
	mib, err := strconv.Atoi(memory)
	require.NoError(t, err)
	require.InDelta(t, 300, mib, 60)
	_, wall, _ := strings.Cut(facts, "wall=")
	seconds, err := strconv.ParseInt(wall, 10, 64)
	require.NoError(t, err)
	require.WithinDuration(t, report.At, time.Unix(seconds, 0), 5*time.Second)
}

// checkNetwork waits for a frame of the guest's in the injected network.
func checkNetwork(t *testing.T, d *Driver, id string) {
	var frame []byte
	require.Eventually(t, func() bool {
		frame, _ = os.ReadFile(filepath.Join(d.vms.dir(id), "frame"))
		return len(frame) > 0
	}, 30*time.Second, 50*time.Millisecond, "no frame came from the guest")
	require.Contains(t, string(frame), strings.ReplaceAll(testNetwork.MAC, ":", ""), "it is not the guest's address")
	require.Contains(t, string(frame), "public=true", "the policy was not told")
}

// checkSecrets looks for the token, and for what others may read.
func checkSecrets(t *testing.T, d *Driver, id string) {
	seen := 0
	require.NoError(t, filepath.WalkDir(d.cfg.StateDir, func(path string, e fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := e.Info()
		require.NoError(t, err)
		inside := strings.HasPrefix(path, d.vms.dir(id))
		if inside || !e.IsDir() {
			require.Zero(t, info.Mode().Perm()&0o077, "%s is open to others: %s", path, info.Mode())
		}
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NotContains(t, string(content), testToken, path)
			seen++
		}
		return nil
	}))
	require.GreaterOrEqual(t, seen, 5)
	for _, pid := range processesOf(t, d, id) {
		for _, file := range []string{"cmdline", "environ"} {
			content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
			require.NoError(t, err)
			require.NotContains(t, string(content), testToken)
		}
	}
}

// checkIsolation looks at uids, capabilities, cgroups and sessions.
func checkIsolation(t *testing.T, d *Driver, id string, image firerunner.Image) {
	pids := processesOf(t, d, id)
	require.Len(t, pids, 2, "a shim and a qemu")
	other, err := d.Create(t.Context(), newSpec("other", image))
	require.NoError(t, err)
	for _, pid := range pids {
		uid, err := readUID(pid)
		require.NoError(t, err)
		if !d.root {
			continue
		}
		require.NotZero(t, uid, "process %d runs as root", pid)
		require.NotEqual(t, recordOf(t, d, other.ID).UID, uid, "two microVMs share a uid")
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		require.NoError(t, err)
		require.Contains(t, string(status), "CapEff:\t0000000000000000")
	}
	for _, tree := range d.cgroups.trees {
		require.Len(t, procs(filepath.Join(tree.dir, id)), 2, "not all is in %s", tree.dir)
	}
	rec := recordOf(t, d, id)
	stat, err := readStat(rec.PID)
	require.NoError(t, err)
	require.Equal(t, rec.PID, stat.session, "the shim is not in a session of its own")
}
