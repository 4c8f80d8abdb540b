package flintlocktest_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner/internal/flintlocktest"
)

// counting counts requests.
type counting struct{ n atomic.Int64 }

func (c *counting) RoundTrip(r *http.Request) (*http.Response, error) {
	c.n.Add(1)
	return http.DefaultTransport.RoundTrip(r)
}

func TestRegistryOK(t *testing.T) {
	host := startRegistry(t)
	push(t, host+"/root:1", tarOf(t, dir("etc"), file("etc/motd", 0o644, []byte("hello")), tarEntry{head: tar.Header{Name: "boot", Typeflag: tar.TypeSymlink, Linkname: "etc"}}))
	requests := &counting{}
	r := &flintlocktest.Registry{CacheDir: t.TempDir(), VolumeMiB: 8, Transport: requests, Insecure: []string{host}}
	path, err := r.File(soon(t), host+"/root:1", "boot/motd")
	require.NoError(t, err)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "hello", string(text))
	_, err = r.File(soon(t), host+"/root:1", "boot/none")
	require.ErrorContains(t, err, "looking for boot/none")

	disk, err := r.Disk(soon(t), host+"/root:1")
	require.NoError(t, err)
	info, err := os.Stat(disk)
	require.NoError(t, err)
	require.EqualValues(t, 8<<20, info.Size())
	var magic [2]byte
	f, err := os.Open(disk)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.ReadAt(magic[:], 1024+56)
	require.NoError(t, err)
	require.Equal(t, [2]byte{0x53, 0xef}, magic, "an ext4 file system")

	before := requests.n.Load()
	again, err := r.Disk(soon(t), host+"/root:1")
	require.NoError(t, err)
	require.Equal(t, disk, again)
	require.Greater(t, requests.n.Load(), before, "the registry is asked every time")

	push(t, host+"/root:1", tarOf(t, dir("new")))
	again, err = r.Disk(soon(t), host+"/root:1")
	require.NoError(t, err)
	require.NotEqual(t, disk, again)
	left, err := filepath.Glob(filepath.Join(r.CacheDir, "*.new"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestRegistryErr(t *testing.T) {
	host := startRegistry(t)
	push(t, host+"/big:1", tarOf(t, file("a", 0o644, bytes.Repeat([]byte("x"), 2<<20))))
	dir := t.TempDir()
	small := &flintlocktest.Registry{CacheDir: dir, VolumeMiB: 1}
	for name, tc := range map[string]struct {
		r    *flintlocktest.Registry
		ref  string
		want string
	}{
		"bad reference": {small, "::", "could not parse"},
		"no image":      {small, host + "/none:1", "NAME_UNKNOWN"},
		"nobody there":  {small, "127.0.0.1:1/x:1", "refused"},
		"no room":       {small, host + "/big:1", "making a disk"},
		"too large":     {&flintlocktest.Registry{CacheDir: dir, MaxBytes: 1 << 20}, host + "/big:1", "too large"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tc.r.Disk(soon(t), tc.ref)
			require.ErrorContains(t, err, tc.want)
		})
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.new"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestRegistryErrLocked: whoever waits for another's pull can give up.
func TestRegistryErrLocked(t *testing.T) {
	host := startRegistry(t)
	push(t, host+"/root:1", tarOf(t, dir("etc")))
	r := &flintlocktest.Registry{CacheDir: t.TempDir()}
	_, err := r.File(soon(t), host+"/root:1", "etc")
	require.ErrorContains(t, err, "not a regular file")
	locks, err := filepath.Glob(filepath.Join(r.CacheDir, "*.lock"))
	require.NoError(t, err)
	require.Len(t, locks, 1)
	f, err := os.Open(locks[0])
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	ctx, cancel := context.WithTimeout(context.Background(), 120*time.Millisecond)
	defer cancel()
	_, err = r.File(ctx, host+"/root:1", "etc")
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// TestPullForReal: a host's create fails while its registry has no such image, and succeeds once it has.
func TestPullForReal(t *testing.T) {
	host := startRegistry(t)
	kernels := make(chan string, 1)
	srv := start(t, flintlocktest.Config{
		Images: &flintlocktest.Registry{CacheDir: t.TempDir(), VolumeMiB: 8},
		VMM: flintlocktest.Scripted{Guest: func(_ context.Context, g *flintlocktest.Guest) {
			text, _ := os.ReadFile(g.Kernel)
			io.WriteString(g.Console, strings.ToUpper(string(text)))
			kernels <- string(text)
		}},
	})
	spec := goodSpec("vm")
	spec.Kernel.Image = host + "/kernel:1"
	spec.RootVolume.Source.ContainerSource = &spec.Kernel.Image
	uid := create(t, dial(t, srv), spec)
	_, err := srv.WaitVM(soon(t), uid, func(vm flintlocktest.VM) bool { return vm.Retry > 0 })
	require.NoError(t, err)
	push(t, host+"/kernel:1", tarOf(t, file("boot/vmlinux", 0o644, []byte("kernel"))))
	require.Equal(t, "kernel", <-kernels)
	vm, err := srv.WaitVM(soon(t), uid, created)
	require.NoError(t, err)
	require.Equal(t, 1, vm.Boots)
}
