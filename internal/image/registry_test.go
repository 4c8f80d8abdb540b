package image

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// hub is a real registry in this process, with a place for everything that can go wrong before it.
type hub struct {
	*httptest.Server
	mu     sync.Mutex
	before func(w http.ResponseWriter, r *http.Request) http.ResponseWriter // nil: the answer is given already
}

func newHub(t *testing.T) *hub {
	t.Helper()
	h := &hub{}
	real := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		before := h.before
		h.mu.Unlock()
		if before != nil {
			if w = before(w, r); w == nil {
				return
			}
		}
		real.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { h.CloseClientConnections(); h.Close() })
	return h
}

func (h *hub) disturb(before func(w http.ResponseWriter, r *http.Request) http.ResponseWriter) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.before = before
}

func (h *hub) ref(path string) string { return strings.TrimPrefix(h.URL, "http://") + "/" + path }

// noKeys is a machine where nobody has logged in.
type noKeys struct{}

func (noKeys) Resolve(authn.Resource) (authn.Authenticator, error) { return authn.Anonymous, nil }

func quick() Registry {
	return Registry{Keys: noKeys{}, Pause: time.Millisecond, Stall: 5 * time.Second}
}

// built is a store with the image "default", with a kernel that Firecracker would boot.
func built(t *testing.T) (*bench, firerunner.Image) {
	t.Helper()
	b := newBench(t)
	b.deb = tarOf(t, [2]string{"./boot/vmlinuz-6.1.0-test", "\x7fELF kernel"}, [2]string{"./lib/virtio_blk.ko", string(moduleELF(t, "depends=\x00"))})
	img, err := b.build(t)
	require.NoError(t, err)
	return b, img
}

func emptyStore(t *testing.T) *Store {
	t.Helper()
	return &Store{Dir: filepath.Join(t.TempDir(), "store")}
}

// requireNothing checks that a store has no image and nothing half-made.
func requireNothing(t *testing.T, s *Store) {
	t.Helper()
	all, err := s.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, all)
	left, err := os.ReadDir(s.tmp())
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(t, err)
	}
	require.Empty(t, left)
}

func TestPushPullOK(t *testing.T) {
	b, img := built(t)
	h := newHub(t)
	var steps []string
	pushed, err := quick().Push(t.Context(), b.Store, "default", h.ref("team/guest:v1"), func(p Progress) {
		if p.Done {
			steps = append(steps, p.Step)
		}
	})
	require.NoError(t, err)
	require.Equal(t, []string{"container image kernel", "container image rootfs", "push kernel", "push rootfs"}, steps)
	require.Equal(t, img.Digest, pushed.Image)
	require.Regexp(t, `^127\.0\.0\.1:\d+/team/guest@sha256:[0-9a-f]{64}$`, pushed.RootFS)
	require.NotEqual(t, pushed.RootFS, pushed.Kernel)
	b.requireClean(t)

	for _, ref := range []string{h.ref("team/guest:v1"), pushed.RootFS} {
		other := emptyStore(t)
		pulled, err := quick().Pull(t.Context(), other, ref, "mine", nil)
		require.NoError(t, err)
		require.Equal(t, img.Digest, pulled.Digest, "it is the image that it was")
		require.Equal(t, "mine", pulled.Name)
		require.Equal(t, pushed.RootFS, pulled.From)
		require.Equal(t, img.Runner, pulled.Runner)
		require.NoError(t, other.Verify(t.Context(), "mine"))
		pair, err := other.Pair(t.Context(), "mine", nil)
		require.NoError(t, err)
		require.True(t, strings.HasSuffix(pushed.Kernel, pair.Kernel) && strings.HasSuffix(pushed.RootFS, pair.RootFS), "and would be pushed as the same pair")
		again, err := quick().Pull(t.Context(), other, ref, "twice", nil)
		require.NoError(t, err)
		require.Equal(t, img.Digest, again.Digest)
		_, err = other.Resolve(t.Context(), "twice")
		require.NoError(t, err)
	}

	root, err := name.NewDigest(pushed.RootFS)
	require.NoError(t, err)
	there, err := remote.Image(root)
	require.NoError(t, err)
	config, err := there.ConfigFile()
	require.NoError(t, err)
	require.True(t, config.Created.IsZero())
	manifest, err := there.Manifest()
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(pushed.Kernel, manifest.Annotations[labelKernel]))
	require.Equal(t, KernelFilename, mustManifest(t, pushed.Kernel).Annotations[labelKernelAt])
}

func mustManifest(t *testing.T, ref string) *v1.Manifest {
	t.Helper()
	d, err := name.NewDigest(ref)
	require.NoError(t, err)
	img, err := remote.Image(d)
	require.NoError(t, err)
	m, err := img.Manifest()
	require.NoError(t, err)
	return m
}

// The container images depend on the image alone: two machines that built the same make the same.
func TestPairSameOK(t *testing.T) {
	one, img := built(t)
	two := newBench(t)
	two.deb, two.recipe.Name = one.deb, "another"
	other, err := two.build(t)
	require.NoError(t, err)
	require.Equal(t, img.Digest, other.Digest)
	a, err := one.Store.Pair(t.Context(), "default", nil)
	require.NoError(t, err)
	b, err := two.Store.Pair(t.Context(), "another", nil)
	require.NoError(t, err)
	require.Equal(t, a.Kernel, b.Kernel)
	require.Equal(t, a.RootFS, b.RootFS)
	again, err := one.Store.Pair(t.Context(), "default", nil)
	require.NoError(t, err)
	require.Equal(t, a, again)
}

func TestPairErr(t *testing.T) {
	b := newBench(t)
	_, err := b.build(t)
	require.NoError(t, err)
	_, err = b.Store.Pair(t.Context(), "default", nil)
	require.ErrorContains(t, err, "not an ELF file")
	require.Equal(t, firerunner.Conflict, firerunner.CodeOf(err))
	b.requireClean(t)
	_, err = b.Store.Pair(t.Context(), "none", nil)
	require.Equal(t, firerunner.NotFound, firerunner.CodeOf(err))
	s := emptyStore(t)
	old := put(t, s, "old", "\x7fELF", 1)
	_, err = s.Pair(t.Context(), "old", nil)
	require.ErrorContains(t, err, "older version")
	require.NotEmpty(t, firerunner.HintOf(err))
	require.NoDirExists(t, filepath.Join(filepath.Dir(old.Kernel), ociDir))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	done, _ := built(t)
	_, err = done.Store.Pair(ctx, "default", nil)
	require.ErrorIs(t, err, context.Canceled)
	done.requireClean(t)
}

// lying changes a byte of every answer of at least 100 bytes to a path that ends so.
type lying struct{ http.ResponseWriter }

func (l lying) Write(b []byte) (int, error) {
	changed := append([]byte(nil), b...)
	changed[len(changed)/2] ^= 1
	return l.ResponseWriter.Write(changed)
}

// cutting breaks the connection in the middle of an answer.
type cutting struct{ http.ResponseWriter }

func (c cutting) Write(b []byte) (int, error) {
	_, _ = c.ResponseWriter.Write(b[:len(b)/2])
	panic(http.ErrAbortHandler)
}

func isBlob(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/")
}

func TestPullErr(t *testing.T) {
	b, _ := built(t)
	h := newHub(t)
	pushed, err := quick().Push(t.Context(), b.Store, "default", h.ref("team/guest:v1"), nil)
	require.NoError(t, err)
	layer := mustManifest(t, pushed.RootFS).Layers[0].Digest.String()
	for what, tc := range map[string]struct {
		ref  string
		way  func(*Registry)
		when func(w http.ResponseWriter, r *http.Request) http.ResponseWriter
		code firerunner.Code
		want string
	}{
		"lying layer": {when: func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
			if strings.HasSuffix(r.URL.Path, layer) {
				return lying{w}
			}
			return w
		}, code: firerunner.Unavailable, want: "sha256"},
		"lying configuration": {when: func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
			if isBlob(r) && !strings.HasSuffix(r.URL.Path, layer) {
				return lying{w}
			}
			return w
		}, code: firerunner.Unavailable, want: "sha256"},
		"lying manifest": {ref: pushed.RootFS, when: func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
			return lying{w}
		}, code: firerunner.Unavailable, want: "digest"},
		"layer that always breaks off": {when: func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
			if strings.HasSuffix(r.URL.Path, layer) {
				return cutting{w}
			}
			return w
		}, code: firerunner.Unavailable, want: "EOF"},
		"too large":    {way: func(g *Registry) { g.Limit = 100 }, code: firerunner.Exhausted, want: "larger than"},
		"no such tag":  {ref: h.ref("team/guest:none"), code: firerunner.NotFound},
		"no reference": {ref: "UPPER CASE", code: firerunner.Invalid},
		"a secret":     {when: wants("ci", "secret"), code: firerunner.Unauthorized},
		"a wrong secret": {
			way: func(g *Registry) { g.Username, g.Password = "ci", "wrong" }, when: wants("ci", "secret"),
			code: firerunner.Unauthorized,
		},
		"only a kernel": {ref: pushed.Kernel, code: firerunner.Invalid, want: "not an image that firerunner has pushed"},
		"standing still": {way: func(g *Registry) { g.Stall = 20 * time.Millisecond }, when: func(_ http.ResponseWriter, r *http.Request) http.ResponseWriter {
			<-r.Context().Done()
			return nil
		}, code: firerunner.Unavailable, want: "nothing came for too long"},
	} {
		h.disturb(tc.when)
		s, g, ref := emptyStore(t), quick(), h.ref("team/guest:v1")
		if tc.way != nil {
			tc.way(&g)
		}
		if tc.ref != "" {
			ref = tc.ref
		}
		_, err := g.Pull(t.Context(), s, ref, "mine", nil)
		require.ErrorContains(t, err, tc.want, what)
		require.Equal(t, tc.code, firerunner.CodeOf(err), "%s: %v", what, err)
		require.NotContains(t, err.Error(), "wrong", what)
		requireNothing(t, s)
	}
	_, err = quick().Pull(t.Context(), emptyStore(t), h.ref("x:y"), "../up", nil)
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
}

// wants is a registry that wants basic authentication.
func wants(user, password string) func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
	return func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		if u, p, ok := r.BasicAuth(); ok && u == user && p == password {
			return w
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return nil
	}
}

func TestPullAfterBreakingOffOK(t *testing.T) {
	b, img := built(t)
	h := newHub(t)
	h.disturb(wants("ci", "secret"))
	g := quick()
	g.Username, g.Password = "ci", "secret"
	pushed, err := g.Push(t.Context(), b.Store, "default", h.ref("team/guest:v1"), nil)
	require.NoError(t, err)
	var mu sync.Mutex
	cut := map[string]bool{}
	h.disturb(func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodGet && !cut[r.URL.Path] && isBlob(r) {
			cut[r.URL.Path] = true
			if strings.Contains(r.URL.Path, mustDigest(pushed.RootFS)) {
				return w
			}
			return cutting{w}
		}
		return w
	})
	pulled, err := quick().Pull(t.Context(), emptyStore(t), pushed.RootFS, "mine", nil)
	require.NoError(t, err)
	require.Equal(t, img.Digest, pulled.Digest)
	require.NotEmpty(t, cut)
}

func mustDigest(ref string) string { _, d, _ := strings.Cut(ref, "@"); return d }

// Somebody who may write to the registry, and makes everything fit except the image itself.
func TestPullErrChangedOnTheWay(t *testing.T) {
	b, _ := built(t)
	h := newHub(t)
	pushed, err := quick().Push(t.Context(), b.Store, "default", h.ref("team/guest:v1"), nil)
	require.NoError(t, err)
	d, err := name.NewDigest(pushed.RootFS)
	require.NoError(t, err)
	img, err := remote.Image(d)
	require.NoError(t, err)
	dir := t.TempDir()
	evil := newTree()
	require.NoError(t, evil.file("usr/local/bin/gitlab-runner", 0o755, 0, []byte("#!/bin/sh\nevil\n")))
	layer, err := writeLayer(t.Context(), dir, func(w io.Writer) error { return writeTar(w, evil) })
	require.NoError(t, err)
	img, err = mutate.AppendLayers(img, layer)
	require.NoError(t, err)
	tag, err := name.NewTag(h.ref("team/guest:v2"))
	require.NoError(t, err)
	require.NoError(t, remote.Write(tag, img))
	s := emptyStore(t)
	_, err = quick().Pull(t.Context(), s, tag.Name(), "mine", nil)
	require.ErrorContains(t, err, "what came is image")
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
	requireNothing(t, s)
}

func TestDecodeManifestErr(t *testing.T) {
	good := Manifest{Digest: digestPrefix + strings.Repeat("a", 64), Recipe: Recipe{DiskMiB: 64}, RootFormat: rootFormat}
	for want, change := range map[string]func(*Manifest){
		"":                   func(*Manifest) {},
		"control characters": func(m *Manifest) { m.Packages = []Package{{"git", "\x1b[2J"}} },
		"digest":             func(m *Manifest) { m.Digest = "sha256:../../x" },
		"a disk of":          func(m *Manifest) { m.Recipe.DiskMiB = 1 << 30 },
		"format 7":           func(m *Manifest) { m.RootFormat = 7 },
		"too long":           func(m *Manifest) { m.Cmdline = strings.Repeat("x", 2000) },
	} {
		m := good
		change(&m)
		text, err := m.portable()
		require.NoError(t, err)
		_, err = decodeManifest(text)
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, want)
	}
	_, err := decodeManifest([]byte("{"))
	require.Error(t, err)
}

func FuzzDecodeManifest(f *testing.F) {
	f.Add([]byte(`{"digest":"sha256:aa","recipe":{"disk_mib":64},"root_format":1,"packages":[{"name":"git","version":"1"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if m, err := decodeManifest(text); err == nil {
			require.Regexp(t, `^sha256:[0-9a-f]{64}$`, m.Digest)
		}
	})
}

func TestPushErr(t *testing.T) {
	b, _ := built(t)
	h := newHub(t)
	for to, code := range map[string]firerunner.Code{
		"guest:v1":                             firerunner.Invalid,
		"team/guest:v1":                        firerunner.Invalid,
		h.ref("x@sha256:" + sixtyFour):         firerunner.Invalid,
		h.ref("x:" + strings.Repeat("t", 125)): firerunner.Invalid,
		"registry.test:1/x:y":                  firerunner.Unavailable,
	} {
		g := quick()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := g.Push(ctx, b.Store, "default", to, nil)
		cancel()
		require.Equal(t, code, firerunner.CodeOf(err), "%s: %v", to, err)
	}
	_, err := quick().Push(t.Context(), b.Store, "none", h.ref("x:y"), nil)
	require.Equal(t, firerunner.NotFound, firerunner.CodeOf(err))
	h.disturb(func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		if r.Method != http.MethodGet {
			w.WriteHeader(http.StatusForbidden)
			return nil
		}
		return w
	})
	_, err = quick().Push(t.Context(), b.Store, "default", h.ref("x:y"), nil)
	require.Equal(t, firerunner.Unauthorized, firerunner.CodeOf(err), "%v", err)
	require.Contains(t, firerunner.HintOf(err), "--password-file")
}

var sixtyFour = strings.Repeat("a", 64)

// A push that is interrupted while a layer goes up leaves no tag behind.
func TestPushCancelled(t *testing.T) {
	b, _ := built(t)
	h := newHub(t)
	ctx, cancel := context.WithCancel(t.Context())
	h.disturb(func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		if r.Method == http.MethodPatch {
			cancel()
			_, _ = io.Copy(io.Discard, r.Body) // or else the server does not see that the other side went away
			<-r.Context().Done()
			return nil
		}
		return w
	})
	_, err := quick().Push(ctx, b.Store, "default", h.ref("team/guest:v1"), nil)
	require.ErrorIs(t, err, context.Canceled)
	h.disturb(nil)
	for _, tag := range []string{"v1", "v1-kernel"} {
		ref, err := name.NewTag(h.ref("team/guest:" + tag))
		require.NoError(t, err)
		_, err = remote.Head(ref)
		require.Error(t, err, tag)
	}
	b.requireClean(t)
	_, err = quick().Push(t.Context(), b.Store, "default", h.ref("team/guest:v1"), nil)
	require.NoError(t, err)
}

func TestConnectTLS(t *testing.T) {
	server := httptest.NewTLSServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(server.Close)
	ref := strings.TrimPrefix(server.URL, "https://") + "/team/guest:v1"
	b, _ := built(t)
	ca := writeFile(t, filepath.Join(t.TempDir(), "ca.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})), 0o644)
	g := quick()
	_, err := g.Push(t.Context(), b.Store, "default", ref, nil)
	require.Error(t, err)
	g.CAFile = ca
	_, err = g.Push(t.Context(), b.Store, "default", ref, nil)
	require.NoError(t, err)
	g.CAFile = writeFile(t, filepath.Join(t.TempDir(), "no.pem"), "x", 0o644)
	_, err = g.Push(t.Context(), b.Store, "default", ref, nil)
	require.ErrorContains(t, err, "no certificate")
	g.CAFile = "/none"
	_, err = g.Push(t.Context(), b.Store, "default", ref, nil)
	require.Error(t, err)
	g.CAFile, g.Insecure = "", true
	_, err = g.Push(t.Context(), b.Store, "default", ref, nil)
	require.NoError(t, err)
}

// Plain HTTP goes to this machine only, wherever an answer sends us.
func TestGuardErrPlain(t *testing.T) {
	for url, permitted := range map[string]bool{
		"http://10.1.2.3:5000/v2/": false, "http://registry.test/v2/": false, "http://localhost.evil.test/": false,
		"http://127.0.0.1:1/": true, "http://localhost:1/": true, "http://[::1]:1/": true, "https://registry.test/": true,
	} {
		sent := false
		g := &guard{stall: time.Minute, next: roundTrip(func(*http.Request) (*http.Response, error) {
			sent = true
			return nil, io.EOF
		})}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		require.NoError(t, err)
		_, err = g.RoundTrip(request)
		require.Error(t, err)
		require.Equal(t, permitted, sent, url)
		require.Equal(t, permitted, !errors.Is(err, errPlain))
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
