package image

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// unpacked is an initial RAM disk without its compression.
func unpacked(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	d, err := zstd.NewReader(bytes.NewReader(data))
	require.NoError(t, err)
	defer d.Close()
	var out bytes.Buffer
	_, err = out.ReadFrom(d)
	require.NoError(t, err)
	return out.String()
}

// treeOf is the root file system of an image.
func treeOf(t *testing.T, img firerunner.Image) *tree {
	t.Helper()
	f, err := os.Open(img.RootFS)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	info, err := f.Stat()
	require.NoError(t, err)
	root, err := readExt4(f, info.Size())
	require.NoError(t, err)
	return root
}

func textOf(t *testing.T, root *tree, name string) string {
	t.Helper()
	text, err := root.read(name, 1<<20)
	require.NoError(t, err)
	return string(text)
}

func TestBuildNoAgentOK(t *testing.T) {
	b := newBench(t)
	b.recipe.NoAgent, b.recipe.SSHD = true, true
	b.recipe.AgentPath, b.recipe.RunnerPath = "", ""
	b.root = tarOf(t,
		[2]string{"./etc/", ""}, [2]string{"./etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"}, [2]string{"./etc/resolv.conf", "nameserver 10.0.0.1"},
		[2]string{"./etc/ssh/", ""}, [2]string{"./etc/ssh/ssh_host_rsa_key", "PRIVATE"}, [2]string{"./etc/ssh/ssh_host_rsa_key.pub", "x"},
		[2]string{"./etc/ssh/sshd_config", "UsePAM yes"}, [2]string{"./usr/sbin/sshd", "sshd"}, [2]string{"./sbin/init", "systemd"},
		[2]string{"./var/lib/dpkg/status", "Package: systemd\nStatus: install ok installed\nVersion: 252\n"},
	)
	img, err := b.build(t)
	require.NoError(t, err)
	require.Empty(t, img.Agent)
	require.Empty(t, img.Runner)
	require.Contains(t, img.Cmdline, "net.ifnames=0")
	require.Equal(t, []string{"base", "kernel", "root file system", "initial RAM disk", "digests"}, b.steps)
	m, err := b.Store.Inspect(t.Context(), "default")
	require.NoError(t, err)
	require.True(t, m.Recipe.NoAgent)
	for _, p := range []string{"openssh-server", "systemd-sysv", "udev", "kmod"} {
		require.Contains(t, m.Recipe.Packages, p)
	}
	ram := unpacked(t, img.Initrd)
	require.Contains(t, ram, "BUSYBOX")
	require.Contains(t, ram, "exec $b switch_root /root /sbin/init")
	require.NotContains(t, ram, "fireguest")

	root := treeOf(t, img)
	for _, gone := range []string{"etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_rsa_key.pub", agentPath, runnerPath, "builds"} {
		require.False(t, root.has(gone), gone)
	}
	require.Equal(t, "UsePAM yes", textOf(t, root, "etc/ssh/sshd_config"))
	require.Equal(t, "systemd", textOf(t, root, "sbin/init"))
	require.Equal(t, "root:x:0:0:root:/root:/bin/bash\n", textOf(t, root, "etc/passwd"))
	require.Empty(t, textOf(t, root, "etc/resolv.conf"), "what this machine resolves with is not the guest's")
	require.Contains(t, textOf(t, root, "etc/fstab"), "x-systemd.growfs")
	require.Contains(t, textOf(t, root, "etc/systemd/system/ssh.service.d/firerunner.conf"), "ssh-keygen")
	b.requireClean(t)
}

func TestBuildNoAgentErr(t *testing.T) {
	b := newBench(t)
	b.recipe.NoAgent = true
	_, err := b.build(t)
	require.ErrorContains(t, err, "no gitlab-runner either")
	b.recipe.RunnerPath = ""
	b.fail("dpkg-deb", "no dpkg")
	_, err = b.build(t)
	require.ErrorContains(t, err, "no dpkg")
	b.requireClean(t)
}

// An image with both an agent and sshd: the agent starts, and no host key is in it.
func TestBuildSSHDOK(t *testing.T) {
	b := newBench(t)
	b.recipe.SSHD = true
	b.root = tarOf(t,
		[2]string{"./etc/ssh/ssh_host_ed25519_key", "PRIVATE"}, [2]string{"./usr/sbin/sshd", "sshd"}, [2]string{"./sbin/init", "systemd"},
		[2]string{"./var/lib/dpkg/status", "Package: git\nStatus: install ok installed\nVersion: 1\n"},
	)
	img, err := b.build(t)
	require.NoError(t, err)
	require.Equal(t, "1.0", img.Agent)
	root := treeOf(t, img)
	require.False(t, root.has("etc/ssh/ssh_host_ed25519_key"))
	require.Equal(t, "systemd", textOf(t, root, "sbin/init"))
	require.True(t, strings.Contains(textOf(t, root, "etc/passwd"), "\nci:") || strings.HasPrefix(textOf(t, root, "etc/passwd"), "ci:"))
}
