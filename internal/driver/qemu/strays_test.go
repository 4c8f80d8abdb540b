package qemu

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each thing that a microVM can leave behind is found, and removed, also where it is all that is left.
func TestListFindsEachAlone(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, d *Driver, id string){
		"Folder": func(t *testing.T, d *Driver, id string) { makeFolder(t, d, id) },
		"Overlay": func(t *testing.T, d *Driver, id string) {
			makeFolder(t, d, id)
			require.NoError(t, os.WriteFile(filepath.Join(d.vms.dir(id), overlayFile), []byte("QFI"), 0o600))
		},
		"Socket": func(t *testing.T, d *Driver, id string) {
			makeFolder(t, d, id)
			listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.vms.socket(id), Net: "unix"})
			require.NoError(t, err)
			listener.SetUnlinkOnClose(false) // as after kill -9
			require.NoError(t, listener.Close())
		},
		"Record": func(t *testing.T, d *Driver, id string) {
			require.NoError(t, d.vms.writeRecord(record{ID: id, Phase: phaseMade}))
		},
		"TornRecord": func(t *testing.T, d *Driver, id string) {
			require.NoError(t, os.WriteFile(d.vms.record(id), []byte(`{"ID":`), 0o600))
		},
		"HalfRecord": func(t *testing.T, d *Driver, id string) {
			require.NoError(t, os.WriteFile(d.vms.record(id)+".part", nil, 0o600))
		},
		"Cgroup": func(t *testing.T, d *Driver, id string) {
			require.NoError(t, d.cgroups.make(id, limits{MemoryMiB: 64, Pids: 8}))
			if len(d.cgroups.trees) == 0 { // there are none on this host: then there is nothing to find
				makeFolder(t, d, id)
			}
		},
		"Process": func(t *testing.T, d *Driver, id string) { sleeper(t, d, d.vms.dir(id), d.cfg.UIDBase+1) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDriver(t, nil)
			leave(t, d, "left")
			vms, err := d.List(t.Context())
			require.NoError(t, err)
			require.Len(t, vms, 1)
			require.Equal(t, "left", vms[0].ID)
			require.False(t, vms[0].Alive)
			require.NoError(t, d.Destroy(t.Context(), "left"))
			require.Empty(t, leftovers(t, d, "left"))
			vms, err = d.List(t.Context())
			require.NoError(t, err)
			require.Empty(t, vms)
		})
	}
}

// What is not marked as this installation's is neither listed nor ended.
func TestListLeavesOthers(t *testing.T) {
	d := newDriver(t, nil)
	other := filepath.Join(stateDir(t), "vms")
	processes := []*exec.Cmd{sleeper(t, d, filepath.Join(other, "left"), d.cfg.UIDBase+1)} // another state folder's
	if d.root {
		processes = append(processes, sleeper(t, d, d.vms.dir("left"), d.cfg.UIDBase+d.cfg.UIDCount)) // somebody else's uid
	}
	require.NoError(t, os.WriteFile(filepath.Join(string(d.vms), "README.TXT"), nil, 0o600))
	vms, err := d.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, vms)
	require.NoError(t, d.Destroy(t.Context(), "left"))
	for _, p := range processes {
		stat, err := readStat(p.Process.Pid)
		require.NoError(t, err)
		require.NotEqual(t, byte('Z'), stat.state, "it lives")
	}
}

func makeFolder(t *testing.T, d *Driver, id string) {
	t.Helper()
	_, err := d.vms.make(id, d.root, d.cfg.UIDBase+1, d.cfg.UIDCount-1)
	require.NoError(t, err)
}

// sleeper is a process with that home; as root, with that uid.
func sleeper(t *testing.T, d *Driver, home string, uid int) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	cmd.Dir, cmd.Env = "/", environment(home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if d.root {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}
