package image

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// bench is a builder whose Debian is made up: mmdebstrap and dpkg-deb are played, everything else is real.
type bench struct {
	Builder
	t        *testing.T
	recipe   Recipe
	deb      []byte
	root     []byte       // the system that mmdebstrap makes
	bases    atomic.Int32 // how often mmdebstrap ran
	sabotage func(name string) error

	mu    sync.Mutex
	steps []string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{
		t:       t,
		Builder: Builder{Store: &Store{Dir: filepath.Join(dir, "images")}, Apt: dir, Inside: []string{"inside"}},
		recipe: Recipe{
			Mirrors: []string{"deb http://mirror.test/debian bookworm main"}, DiskMiB: 64,
			AgentPath:  writeFile(t, filepath.Join(dir, "agent"), sayer(t, "fireguest 1.0\n"), 0o755),
			RunnerPath: writeFile(t, filepath.Join(dir, "runner"), sayer(t, "Version:      19.4.0\n"), 0o755),
		},
		root: tarOf(t,
			[2]string{"./etc/", ""}, [2]string{"./etc/passwd", "root:x:0:0:root:/root:/bin/bash"}, [2]string{"./dev/", ""}, [2]string{"./dev/null", "x"},
			[2]string{"./var/lib/dpkg/status", "Package: git\nStatus: install ok installed\nVersion: 1:2.39\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n"},
		),
		deb: tarOf(t, [2]string{"./boot/vmlinuz-6.1.0-test", "kernel"}, [2]string{"./lib/virtio_blk.ko", string(moduleELF(t, "depends=\x00"))}),
	}
	b.Exec = func(ctx context.Context, c Command) error {
		if b.sabotage != nil {
			if err := b.sabotage(c.Args[0]); err != nil {
				return err
			}
		}
		switch c.Args[0] {
		case "mmdebstrap":
			return b.mmdebstrap(t, c)
		case "dpkg-deb":
			deb := b.deb
			if strings.Contains(c.Args[2], busyboxPackage) {
				deb = tarOf(t, [2]string{"./usr/bin/busybox", "BUSYBOX"})
			}
			_, err := c.Stdout.Write(deb)
			return err
		default:
			return Execute(ctx, c)
		}
	}
	return b
}

func (b *bench) mmdebstrap(t *testing.T, c Command) error {
	b.bases.Add(1)
	target, list := c.Args[len(c.Args)-2], c.Args[len(c.Args)-1]
	sources, err := os.ReadFile(list)
	if err != nil || !strings.Contains(string(sources), "mirror.test") {
		return fmt.Errorf("odd sources %q: %w", sources, err)
	}
	_, after, _ := strings.Cut(strings.Join(c.Args, "\n"), "sync-out /tmp/firerunner-kernel '")
	kernelDir, _, _ := strings.Cut(after, "'")
	fmt.Fprintln(c.Stderr, "I: running apt-get update...")
	if strings.Contains(strings.Join(c.Args, " "), busyboxPackage) {
		err = os.WriteFile(filepath.Join(kernelDir, busyboxPackage+"_1_amd64.deb"), nil, 0o644)
	}
	return errors.Join(err,
		os.WriteFile(filepath.Join(kernelDir, "linux.deb"), nil, 0o644),
		os.WriteFile(target, b.root, 0o644))
}

func (b *bench) build(t *testing.T) (firerunner.Image, error) {
	return b.Build(t.Context(), b.recipe, func(p Progress) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if p.Done {
			b.steps = append(b.steps, p.Step)
		}
	})
}

// requireClean checks that no build has left anything.
func (b *bench) requireClean(t *testing.T) {
	t.Helper()
	left, err := os.ReadDir(b.Store.tmp())
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	require.Empty(t, left)
}

func TestBuildOK(t *testing.T) {
	b := newBench(t)
	img, err := b.build(t)
	require.NoError(t, err)
	require.Equal(t, "default", img.Name)
	require.Equal(t, "19.4.0", img.Runner)
	require.Equal(t, "1.0", img.Agent)
	require.Regexp(t, `^sha256:[0-9a-f]{64}$`, img.Digest)
	require.Positive(t, img.SizeBytes)
	require.Equal(t, []string{"agent", "gitlab-runner", "base", "kernel", "root file system", "initial RAM disk", "digests"}, b.steps)
	m, err := b.Store.Inspect(t.Context(), "default")
	require.NoError(t, err)
	require.Equal(t, []Package{{"git", "1:2.39"}}, m.Packages)
	require.Equal(t, "6.1.0-test", m.KernelVersion)
	require.NoError(t, b.Store.Verify(t.Context(), "default"))
	b.requireClean(t)

	debugfs, err := exec.LookPath("debugfs")
	if err == nil {
		for command, want := range map[string]string{
			"cat /etc/passwd":                   "root:x:0:0:root:/root:/bin/bash\nci:x:1000:1000:CI job:/home/ci:/bin/bash\n",
			"cat /usr/sbin/fireguest":           sayer(t, "fireguest 1.0\n"),
			"stat /builds":                      "User:  1000   Group:  1000",
			"stat /usr/local/bin/gitlab-runner": "Mode:  0755",
			"cat /etc/machine-id":               "",
		} {
			out, err := exec.Command(debugfs, "-R", command, img.RootFS).Output()
			require.NoError(t, err)
			require.Contains(t, string(out), want, command)
		}
	}

	again, err := b.build(t)
	require.NoError(t, err)
	require.Equal(t, img, again, "the same parts are the same image")

	writeFile(t, b.recipe.AgentPath, sayer(t, "fireguest 1.1\n"), 0o755)
	b.recipe.Sudo = true
	b.recipe.Name = "other"
	newer, err := b.build(t)
	require.NoError(t, err)
	require.NotEqual(t, img.Digest, newer.Digest)
	require.Equal(t, int32(2), b.bases.Load(), "sudo is another package, so another base")
	b.recipe.Refresh = true
	_, err = b.build(t)
	require.NoError(t, err)
	require.Equal(t, int32(3), b.bases.Load())
	b.requireClean(t)
}

func TestBuildTwoAtOnceOK(t *testing.T) {
	b := newBench(t)
	var group sync.WaitGroup
	images := make([]firerunner.Image, 3)
	for i := range images {
		group.Go(func() {
			img, err := b.build(t)
			if err != nil {
				t.Error(err)
			}
			images[i] = img
		})
	}
	group.Wait()
	require.Equal(t, int32(1), b.bases.Load())
	for _, img := range images {
		require.NoError(t, b.Store.Verify(t.Context(), img.Digest))
	}
	b.requireClean(t)
}

func TestBuildErr(t *testing.T) {
	for _, tc := range []struct {
		want   string
		change func(*bench)
	}{
		{"not a program for Linux", func(b *bench) { b.recipe.AgentPath = "/etc/passwd" }},
		{"it is not static, it needs", func(b *bench) { b.recipe.AgentPath = "/bin/sh" }},
		{"gitlab-runner: it is not a program", func(b *bench) { b.recipe.RunnerPath = "/etc/passwd" }},
		{"is for EM_AARCH64, and guests", func(b *bench) {
			program := []byte(sayer(b.t, "x"))
			program[18] = byte(elf.EM_AARCH64)
			writeFile(b.t, b.recipe.RunnerPath, string(program), 0o755)
		}},
		{"no gitlab-runner", func(b *bench) { b.recipe.RunnerPath = "" }},
		{"read the guest agent", func(b *bench) { b.recipe.AgentPath = "/none" }},
		{"read gitlab-runner", func(b *bench) { b.recipe.RunnerPath = "/none" }},
		{"not understood", func(b *bench) { b.recipe.RunnerPath = b.recipe.AgentPath }},
		{"its SHA-256 is", func(b *bench) { b.recipe.RunnerSHA256 = strings.Repeat("0", 64) }},
		{"recipe's mirrors", func(b *bench) { b.recipe.Mirrors = []string{"x"} }},
		{"none of apt's sources", func(b *bench) { b.recipe.Mirrors = nil }},
		{"bootstrap failed", func(b *bench) { b.fail("mmdebstrap", "bootstrap failed") }},
		{"no dpkg", func(b *bench) { b.fail("dpkg-deb", "no dpkg") }},
		{"read the base", func(b *bench) { b.root = []byte("not a tar file") }},
		{"no kernel", func(b *bench) { b.deb = tarOfNothing }},
	} {
		b := newBench(t)
		tc.change(b)
		_, err := b.build(t)
		require.ErrorContains(t, err, tc.want)
		require.NotEqual(t, firerunner.Internal, firerunner.CodeOf(err), tc.want)
		b.requireClean(t)
		all, err := b.Store.List(t.Context())
		require.NoError(t, err)
		require.Empty(t, all)
	}
}

var tarOfNothing = make([]byte, 1024)

func (b *bench) fail(tool, why string) {
	before := b.sabotage
	b.sabotage = func(name string) error {
		if name == tool {
			return firerunner.Errorf(firerunner.Unavailable, "%s", why)
		}
		if before != nil {
			return before(name)
		}
		return nil
	}
}

func TestBuildCancelled(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	b.sabotage = func(name string) error {
		if name == "dpkg-deb" {
			cancel()
			return ctx.Err()
		}
		return nil
	}
	_, err := b.Build(ctx, b.recipe, nil)
	require.ErrorIs(t, err, context.Canceled)
	b.requireClean(t)
}

// What a builder left that was killed is removed by the next.
func TestBuildAfterCrash(t *testing.T) {
	b := newBench(t)
	dead := filepath.Join(b.Store.tmp(), "build-dead")
	require.NoError(t, os.MkdirAll(dead+"/tree", 0o755))
	writeFile(t, dead+".lock", "", 0o600)
	alive, remove, err := scratch(t.Context(), b.Store.tmp())
	require.NoError(t, err)
	require.NoDirExists(t, dead)
	_, err = b.build(t)
	require.NoError(t, err)
	require.DirExists(t, alive)
	remove()
	b.requireClean(t)
}

func TestBuildDownload(t *testing.T) {
	b := newBench(t)
	runner, err := os.ReadFile(b.recipe.RunnerPath)
	require.NoError(t, err)
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked++; r.URL.Path != "/runner" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write(runner)
	}))
	defer server.Close()
	b.HTTP = server.Client()
	sum := sha256.Sum256(runner)
	b.recipe.RunnerPath, b.recipe.RunnerURL, b.recipe.RunnerSHA256 = "", server.URL+"/runner", hex.EncodeToString(sum[:])
	img, err := b.build(t)
	require.NoError(t, err)
	require.Equal(t, "19.4.0", img.Runner)
	_, err = b.build(t)
	require.NoError(t, err)
	require.Equal(t, 1, asked, "it is kept")

	b.recipe.RunnerSHA256 = strings.Repeat("1", 64)
	_, err = b.build(t)
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
	for _, url := range []string{server.URL + "/none", "ftp://x", "http://127.0.0.1:1/x", "http://%zz"} {
		b.recipe.RunnerURL = url
		_, err = b.build(t)
		require.Error(t, err, url)
	}
	server.CloseClientConnections()
}

func TestExecuteErr(t *testing.T) {
	err := Execute(t.Context(), Command{Args: []string{"mmdebstrap-none"}})
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
	err = Execute(t.Context(), Command{Args: []string{"sh", "-c", "echo why >&2; exit 3"}, Stderr: io.Discard})
	require.ErrorContains(t, err, "exit status 3: why")
	err = Execute(t.Context(), Command{Args: []string{"/none/x"}})
	require.Error(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	began := time.Now()
	err = Execute(ctx, Command{Args: []string{"sh", "-c", "sleep 60 & sleep 60"}, Stderr: io.Discard})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(began), 10*time.Second, "its children end too")
	require.Equal(t, `'it'\''s'`, quote("it's"))
	var lines []string
	w := &lineWriter{each: func(l string) { lines = append(lines, l) }}
	_, _ = io.WriteString(w, "a\r\nb")
	_, _ = io.WriteString(w, "c\n"+strings.Repeat("x", 100<<10))
	_, _ = io.WriteString(w, "d\n")
	require.Equal(t, []string{"a", "bc", "d"}, lines)
}
