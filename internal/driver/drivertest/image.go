package drivertest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// rootMiB is the size of the test image's root disk, which is empty.
const rootMiB = 64

// modules that the test guest loads, in this order, where its kernel has them as modules.
var modules = []string{
	"virtio_ring.ko", "virtio.ko", "virtio_mmio.ko", "virtio_blk.ko", "failover.ko", "net_failover.ko", "virtio_net.ko",
	"virtio_console.ko", "virtio-rng.ko", "virtio_balloon.ko",
}

// Image returns an image that boots in a second or two: Debian's cloud kernel, from this machine's own package
// sources, and an initramfs with nothing but its virtio modules and the test guest. It is kept in the user's
// cache, by content; every uid can read what is returned.
func Image(t testing.TB) firerunner.Image {
	t.Helper()
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	cache = filepath.Join(cache, "firerunner", "drivertest")
	require.NoError(t, os.MkdirAll(cache, 0o755))
	tree := kernelTree(t, cache)
	kernels, err := filepath.Glob(filepath.Join(tree, "boot", "vmlinuz-*"))
	require.NoError(t, err)
	require.Len(t, kernels, 1)

	guest := filepath.Join(t.TempDir(), "guest")
	_, here, _, _ := runtime.Caller(0)
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", guest, ".")
	build.Dir = filepath.Join(filepath.Dir(here), "testdata", "guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=-buildvcs=false")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "building the test guest: %s", out)

	archive, err := initramfs(tree, guest)
	require.NoError(t, err)
	sum := sha256.Sum256(archive)
	digest := hex.EncodeToString(sum[:])
	initrd := filepath.Join(cache, "initrd-"+digest[:16])
	require.NoError(t, keep(initrd, archive))
	image := firerunner.Image{Name: "drivertest", Digest: "sha256:" + digest, Kernel: kernels[0], Initrd: initrd}
	return publish(t, image)
}

// publish copies an image to where every uid can read it, for the time of a test: a cache is its user's alone. The
// root disk is made there too.
func publish(t testing.TB, image firerunner.Image) firerunner.Image {
	t.Helper()
	dir, err := os.MkdirTemp("", "drivertest-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	for name, path := range map[string]*string{"kernel": &image.Kernel, "initrd": &image.Initrd} {
		content, err := os.ReadFile(*path)
		require.NoError(t, err)
		*path = filepath.Join(dir, name)
		require.NoError(t, keep(*path, content))
	}
	image.RootFS = filepath.Join(dir, "root")
	require.NoError(t, keep(image.RootFS, nil))
	require.NoError(t, os.Truncate(image.RootFS, rootMiB<<20))
	return image
}

// kernelTree fetches and unpacks the newest cloud kernel that this machine's package sources offer, once.
func kernelTree(t testing.TB, cache string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(cache, "linux-image-*-cloud-amd64"))
	require.NoError(t, err)
	if len(found) > 0 {
		return found[len(found)-1]
	}
	out, err := exec.CommandContext(t.Context(), "apt-cache", "depends", "linux-image-cloud-amd64").Output()
	require.NoError(t, err, "the test guest needs a kernel; run apt-get update on Debian")
	name := ""
	for line := range strings.Lines(string(out)) {
		if pkg, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && strings.HasPrefix(pkg, "linux-image-") {
			name = pkg
			break
		}
	}
	require.NotEmpty(t, name, "linux-image-cloud-amd64 names no kernel: %s", out)
	work, err := os.MkdirTemp(cache, "part-")
	require.NoError(t, err)
	defer os.RemoveAll(work)
	fetch := exec.CommandContext(t.Context(), "apt-get", "-q", "download", name)
	fetch.Dir = work
	out, err = fetch.CombinedOutput()
	require.NoError(t, err, "fetching %s: %s", name, out)
	packages, err := filepath.Glob(filepath.Join(work, "*.deb"))
	require.NoError(t, err)
	require.Len(t, packages, 1)
	tree := filepath.Join(work, "tree")
	out, err = exec.CommandContext(t.Context(), "dpkg-deb", "-x", packages[0], tree).CombinedOutput()
	require.NoError(t, err, "unpacking %s: %s", name, out)
	require.NoError(t, os.Chmod(tree, 0o755))
	final := filepath.Join(cache, name)
	if err := os.Rename(tree, final); err != nil && !errors.Is(err, fs.ErrExist) {
		_, there := os.Stat(final) // another test process was first
		require.NoError(t, there, "%v", err)
	}
	return final
}

// keep writes a file in one step, for every uid to read.
func keep(path string, content []byte) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	part, err := os.CreateTemp(filepath.Dir(path), "part-")
	if err != nil {
		return err
	}
	_, err = part.Write(content)
	return errors.Join(err, part.Chmod(0o644), part.Close(), os.Rename(part.Name(), path))
}

// initramfs packs the guest as /init and the modules below tree.
func initramfs(tree, guest string) ([]byte, error) {
	var archive bytes.Buffer
	add := func(name string, mode uint32, content []byte) {
		// The "newc" form of cpio: the kernel's early-userspace/buffer-format.
		size := len(content)
		fmt.Fprintf(&archive, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0)
		archive.WriteString(name + "\x00")
		pad(&archive)
		archive.Write(content)
		pad(&archive)
	}
	const folder, program, file = 0o040755, 0o100755, 0o100644
	for _, name := range []string{"dev", "proc", "sys", "modules"} {
		add(name, folder, nil)
	}
	init, err := os.ReadFile(guest)
	if err != nil {
		return nil, err
	}
	add("init", program, init)
	add("modules/order", file, []byte(strings.Join(modules, "\n")))
	err = filepath.WalkDir(filepath.Join(tree, "lib", "modules"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		for _, m := range modules {
			if m == e.Name() {
				content, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				add("modules/"+m, file, content)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	add("TRAILER!!!", 0, nil)
	return archive.Bytes(), nil
}

func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
