package main

import (
	"io"
	"log"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/flintlocktest"
)

func TestDoctorFleet(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer web.Close()
	at := strings.TrimPrefix(web.URL, "http://")
	push := func(repository string) string {
		img, err := random.Image(64, 1)
		require.NoError(t, err)
		tag, err := name.NewTag(at + "/" + repository + ":1")
		require.NoError(t, err)
		require.NoError(t, remote.Write(tag, img))
		digest, err := img.Digest()
		require.NoError(t, err)
		return tag.Context().Name() + "@" + digest.String()
	}
	srv, err := flintlocktest.Start(flintlocktest.Config{Dir: t.TempDir(), Token: "right"})
	require.NoError(t, err)
	defer srv.Close()
	cfg := config.Default()
	cfg.Driver, cfg.Image.Dir = config.DriverFlintlock, t.TempDir()
	cfg.VM.Image = "default"
	cfg.Guest.PublicAddress = "192.0.2.1"
	cfg.Flintlock.KernelImage, cfg.Flintlock.KernelFile = push("kernel"), "boot/vmlinux"
	cfg.Flintlock.RootFSImage = push("root")
	cfg.Hosts = []config.Host{{Name: "h", Endpoint: srv.Addr(), Token: "right", TLS: config.TLS{Insecure: true}, VCPU: 2, MemoryMiB: 2048}}
	e := examination{app: &app{}, cfg: &cfg, deep: true}
	look := func() map[verdict][]string {
		found := map[verdict][]string{}
		for _, f := range e.fleet(t.Context()) {
			found[f.Verdict] = append(found[f.Verdict], f.Found)
			require.Equal(t, f.Verdict != good, f.Remedy != "", "%s", f.Found)
		}
		return found
	}

	found := look()
	require.Empty(t, found[fail])
	require.Len(t, found[warn], 1)
	require.Contains(t, found[warn][0], "in clear")
	require.Len(t, found[good], 4)
	require.Contains(t, found[good][3], "made a microVM of image default")
	require.Empty(t, srv.VMs())

	cfg.Flintlock.RootFSImage = at + "/root@sha256:" + strings.Repeat("0", 64)
	e.deep = false
	require.Contains(t, strings.Join(look()[warn], "\n"), "is not seen from here")

	cfg.Hosts[0].Token = "wrong"
	require.Contains(t, look()[fail][0], "host h")
	require.NotContains(t, look()[fail][0], "wrong")

	cfg.Hosts[0].Token = "right"
	cfg.Flintlock.KernelImage = ""
	require.NotEmpty(t, look()[fail], "no image here, and none named")

	cfg.Guest.PublicAddress, cfg.Hosts, cfg.Flintlock.Endpoint = "", nil, ""
	require.Len(t, look()[warn], 1)
	cfg.Driver = "qemu"
	require.Empty(t, e.fleet(t.Context()))
	require.DirExists(t, filepath.Dir(cfg.Image.Dir))
}
