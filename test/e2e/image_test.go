package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/image"
)

// smallSystem is a part of the Debian that the default image is made of, as a layer: enough for a job.
func smallSystem(t *testing.T, rootTar string) []byte {
	t.Helper()
	f, err := os.Open(rootTar)
	require.NoError(t, err)
	defer f.Close()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for in := tar.NewReader(f); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		leave := h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock
		for _, prefix := range []string{"./usr/share/", "./var/", "./usr/lib/x86_64-linux-gnu/perl", "./usr/lib/x86_64-linux-gnu/gconv/", "./boot/"} {
			leave = leave || strings.HasPrefix(h.Name, prefix) && h.Typeflag != tar.TypeDir
		}
		if leave {
			continue
		}
		require.NoError(t, w.WriteHeader(h))
		_, err = io.Copy(w, in)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return out.Bytes()
}

// TestImageFrom makes an image of a container image that knows nothing of us, with a script, and verifies it: one microVM
// runs one job.
func TestImageFrom(t *testing.T) {
	if under.skip != "" {
		t.Skip(under.skip)
	}
	t.Parallel()
	dir, err := os.MkdirTemp("/tmp", "fr-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o711))

	// The packages of the default image are here: no mirror is asked.
	here := &image.Store{Dir: under.imageDir}
	ours, err := here.Inspect(t.Context(), "default")
	require.NoError(t, err)
	images := filepath.Join(dir, "images")
	require.NoError(t, os.MkdirAll(filepath.Join(images, "base"), 0o755))
	base := filepath.Join(under.imageDir, "base", ours.BaseKey)
	require.NoError(t, os.Symlink(base, filepath.Join(images, "base", ours.BaseKey)))

	hub := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(hub.Close)
	ref, err := name.NewTag(strings.TrimPrefix(hub.URL, "http://") + "/team/base:v1")
	require.NoError(t, err)
	layer := smallSystem(t, filepath.Join(base, "root.tar"))
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer)), nil }, tarball.WithCompressionLevel(1))
	require.NoError(t, err)
	img, err := mutate.AppendLayers(empty.Image, l)
	require.NoError(t, err)
	require.NoError(t, remote.Write(ref, img))
	digest, err := img.Digest()
	require.NoError(t, err)

	script := filepath.Join(dir, "setup.sh")
	require.NoError(t, os.WriteFile(script, []byte("set -e\necho \"setup as $(id -u)\"\ntouch /etc/from-setup\n"), 0o600))
	run := func(program string, into any, args ...string) string {
		cmd := exec.Command(program, append(args, "--json")...)
		cmd.Env = []string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "FIRERUNNER_STATE_DIR=" + filepath.Join(dir, "state"),
			"FIRERUNNER_IMAGE_DIR=" + images,
			"FIRERUNNER_VM_ACCEL=" + under.accel, "FIRERUNNER_SHIM=" + under.released, "GOCOVERDIR=" + under.coverDir, "FIRERUNNER_DEADLINES_BOOTING=8m", "FIRERUNNER_DEADLINES_READY=8m",
		}
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		require.NoError(t, err, "%s\n%s", out, said.String())
		require.NoError(t, json.Unmarshal(out, into), "%s", out)
		return said.String()
	}
	var built struct{ Name, Digest string }
	said := run(under.released, &built, "image", "build", "--name", "team", "--from", ref.Name(), "--run", script, "--gitlab-runner", filepath.Join(filepath.Dir(under.released), "gitlab-runner"))
	require.Contains(t, said, "setup as 0")
	require.NotContains(t, said, "mmdebstrap")
	var manifest image.Manifest
	run(under.daemon, &manifest, "image", "inspect", "team")
	require.Equal(t, ref.Context().Digest(digest.String()).Name(), manifest.From)
	require.Equal(t, "setup.sh", manifest.Recipe.Scripts[0].Name)

	var verdict struct {
		OK     bool
		Agent  bool
		Checks []struct {
			Name string
			OK   bool
		}
	}
	run(under.daemon, &verdict, "image", "verify", "team", "--timeout", patience.String())
	require.True(t, verdict.OK && verdict.Agent)
	require.Len(t, verdict.Checks, 8)
	left, err := os.ReadDir(filepath.Join(dir, "state"))
	require.True(t, err == nil || os.IsNotExist(err), err)
	require.Empty(t, left)
}
