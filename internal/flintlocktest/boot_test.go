package flintlocktest_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/firerunner/firerunner/internal/flintlocktest"
	flintlock "github.com/firerunner/firerunner/proto/flintlock/types"
)

// TestBootOK boots a real microVM from images in a registry, twice: once because it was asked for, and once more as a
// ghost, because it ended and nobody deleted it.
func TestBootOK(t *testing.T) {
	kernel, initrd := bootFiles(t)
	guest := buildGuest(t)
	host := startRegistry(t)
	push(t, host+"/kernel:6.1", tarOf(t, file("boot/vmlinux", 0o644, kernel), file("boot/initrd", 0o644, slices.Concat(initrd, make([]byte, 4-len(initrd)%4), guestInit(guest)))))
	push(t, host+"/root:1",
		tarOf(t, dir("sbin"), file("sbin/init", 0o755, guest), dir("dev"), dir("proc"), dir("sys"), file("removed", 0o600, nil)),
		tarOf(t, file(".wh.removed", 0o600, nil), link("link", "/real"), file("link/kept", 0o600, []byte("yes"))))

	seen := make(chan net.HardwareAddr, 100)
	srv := start(t, flintlocktest.Config{
		Images: &flintlocktest.Registry{CacheDir: t.TempDir(), VolumeMiB: 64},
		VMM: &flintlocktest.QEMU{Network: func(flintlocktest.Machine, flintlocktest.Interface) (flintlocktest.Link, error) {
			return flintlocktest.Link{MAC: "52:54:00:42:00:03", Serve: func(ctx context.Context, wire net.Conn) error {
				return senders(ctx, wire, seen)
			}}, nil
		}},
	})
	spec := goodSpec("vm-1")
	spec.Vcpu = 1 // an emulated processor is a thread that turns: one is enough here
	spec.Kernel = &flintlock.Kernel{
		Image: host + "/kernel:6.1", Filename: proto.String("boot/vmlinux"),
		Cmdline: map[string]string{"quiet": "", "cryptomgr.notests": "", "panic": "-1"},
	}
	spec.Initrd = &flintlock.Initrd{Image: host + "/kernel:6.1", Filename: proto.String("boot/initrd")}
	spec.RootVolume.Source.ContainerSource = proto.String(host + "/root:1")
	spec.Interfaces[0].GuestMac = proto.String("52:54:00:42:00:02")
	began := time.Now()
	client := dial(t, srv)
	uid := create(t, client, spec)
	defer func() {
		if t.Failed() {
			vm, _ := srv.VM(uid)
			console, _ := srv.Console(uid)
			t.Logf("%+v\n%s", vm, console)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := srv.WaitVM(ctx, uid, func(vm flintlocktest.VM) bool { return ended(vm) || vm.State == "FAILED" })
	require.NoError(t, err)
	t.Logf("from the request to the end of the guest: %s", time.Since(began))
	console, err := srv.Console(uid)
	require.NoError(t, err)
	for _, want := range []string{
		"BOOTS +\r\n", "KEPT yes <nil>", "REMOVED true", "MAC eth0 aa:ff:00:00:00:01", "MAC eth1 52:54:00:42:00:02",
		`METADATA "hello from the host\n" <nil>`, "OTHER PORT true", "OTHER ADDRESS true", "DONE",
	} {
		require.Contains(t, console, want)
	}
	select {
	case mac := <-seen:
		require.Equal(t, "52:54:00:42:00:02", mac.String())
	default:
		t.Fatal("no frame came out of eth1")
	}

	// The daemon does not know that it has ended; the next resync starts it again on the same disk.
	srv.Resync()
	_, err = srv.WaitVM(ctx, uid, func(vm flintlocktest.VM) bool { return vm.Boots == 2 && !vm.Running })
	require.NoError(t, err)
	console, err = srv.Console(uid)
	require.NoError(t, err)
	require.Contains(t, console, "BOOTS ++\r\n")
	require.Equal(t, 1, srv.Counters().GhostBoots)
}

// bootFiles are kernel and initial RAM disk of the image "default".
func bootFiles(t *testing.T) (kernel, initrd []byte) {
	t.Helper()
	for _, program := range []string{"qemu-system-x86_64", "qemu-img", "mkfs.ext4"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("real microVMs need QEMU and e2fsprogs, and they are not all installed here: %v", err)
		}
	}
	images := os.Getenv("FIRERUNNER_IMAGE_DIR") // make sets it, and has built the image
	named := images != ""
	if !named {
		images = "/var/cache/firerunner/images"
	}
	digest, err := os.ReadFile(filepath.Join(images, "names", "default"))
	if err != nil && !named {
		t.Skipf("a real boot needs the image %q (make image): %v", "default", err)
	}
	require.NoError(t, err)
	at := filepath.Join(images, "images", strings.TrimPrefix(strings.TrimSpace(string(digest)), "sha256:"))
	kernel, err = os.ReadFile(filepath.Join(at, "kernel"))
	require.NoError(t, err)
	initrd, err = os.ReadFile(filepath.Join(at, "initrd"))
	require.NoError(t, err)
	return kernel, initrd
}

// buildGuest builds the program that the guest runs.
func buildGuest(t *testing.T) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "guest")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./testdata/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	text, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", text)
	program, err := os.ReadFile(out)
	require.NoError(t, err)
	return program
}

// guestInit is an archive that, after another one, replaces its /init. Zeroes may stand in between, and it has to begin
// at a multiple of 4.
// https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
func guestInit(program []byte) []byte {
	var b bytes.Buffer
	entry := func(name string, mode uint32, data []byte) {
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", 99, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name + "\x00")
		b.Write(make([]byte, (4-(110+len(name)+1)%4)%4))
		b.Write(data)
		b.Write(make([]byte, (4-len(data)%4)%4))
	}
	entry("init", 0o100755, program)
	entry("TRAILER!!!", 0, nil)
	return b.Bytes()
}

// senders reports who sends frames, until the wire ends.
func senders(ctx context.Context, wire net.Conn, seen chan<- net.HardwareAddr) error {
	defer wire.Close()
	defer context.AfterFunc(ctx, func() { wire.Close() })()
	for {
		var length [4]byte
		if _, err := io.ReadFull(wire, length[:]); err != nil {
			return nil
		}
		frame := make([]byte, min(binary.BigEndian.Uint32(length[:]), 1<<17))
		if _, err := io.ReadFull(wire, frame); err != nil || len(frame) < 14 {
			return err
		}
		select {
		case seen <- net.HardwareAddr(frame[6:12]):
		default:
		}
	}
}

// startRegistry is a registry that ends with the test.
func startRegistry(t *testing.T) (host string) {
	t.Helper()
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// push makes an image of layers, the lowest first, and pushes it.
func push(t *testing.T, ref string, layers ...[]byte) {
	t.Helper()
	img := empty.Image
	for _, l := range layers {
		var err error
		img, err = mutate.AppendLayers(img, static.NewLayer(l, types.OCIUncompressedLayer))
		require.NoError(t, err)
	}
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: configOf(t, img).RootFS})
	require.NoError(t, err)
	parsed, err := name.ParseReference(ref)
	require.NoError(t, err)
	require.NoError(t, remote.Write(parsed, img))
}

func configOf(t *testing.T, img v1.Image) *v1.ConfigFile {
	t.Helper()
	c, err := img.ConfigFile()
	require.NoError(t, err)
	return c
}

type tarEntry struct {
	head tar.Header
	data []byte
}

func file(name string, mode int64, data []byte) tarEntry {
	return tarEntry{tar.Header{Name: name, Mode: mode, Typeflag: tar.TypeReg, Size: int64(len(data))}, data}
}

func dir(name string) tarEntry {
	return tarEntry{tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeDir}, nil}
}

func link(name, target string) tarEntry {
	return tarEntry{tar.Header{Name: name, Linkname: target, Typeflag: tar.TypeSymlink}, nil}
}

func tarOf(t *testing.T, entries ...tarEntry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		require.NoError(t, w.WriteHeader(&e.head))
		_, err := w.Write(e.data)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}
