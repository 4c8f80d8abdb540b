package main

import (
	"context"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/internal/guest"
)

// clinic is one host with flintlockd, whose guests are played by a function, and a configuration for doctor.
type clinic struct {
	t    *testing.T
	srv  *flintlocktest.Server
	cfg  *config.Config
	push func(repository string) string
	e    *examination
}

// newClinic makes one whose images are in a registry of the test's own. guest plays the guests; nil: they do nothing.
func newClinic(t *testing.T, guest func(ctx context.Context, g *flintlocktest.Guest)) *clinic {
	t.Helper()
	web := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(web.Close)
	c := &clinic{t: t}
	c.push = func(repository string) string {
		img, err := random.Image(64, 1)
		require.NoError(t, err)
		tag, err := name.NewTag(strings.TrimPrefix(web.URL, "http://") + "/" + repository + ":1")
		require.NoError(t, err)
		require.NoError(t, remote.Write(tag, img))
		digest, err := img.Digest()
		require.NoError(t, err)
		return tag.Context().Name() + "@" + digest.String()
	}
	var err error
	c.srv, err = flintlocktest.Start(flintlocktest.Config{
		Dir: t.TempDir(), Token: "right", VMM: flintlocktest.Scripted{Guest: guest}, ResyncPeriod: 300 * time.Millisecond,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.srv.Close()) })
	cfg := config.Default()
	cfg.Driver, cfg.Image.Dir, cfg.StateDir = config.DriverFlintlock, t.TempDir(), t.TempDir()
	cfg.VM.Image = "default"
	cfg.Guest = config.Guest{Host: "127.0.0.1", Port: freePort(t), PublicAddress: "192.0.2.1"}
	cfg.Flintlock.KernelImage, cfg.Flintlock.KernelFile = c.push("kernel"), "boot/vmlinux"
	cfg.Flintlock.RootFSImage = c.push("root")
	cfg.Hosts = []config.Host{{Name: "h", Endpoint: c.srv.Addr(), Token: "right", TLS: config.TLS{Insecure: true}, VCPU: 2, MemoryMiB: 2048}}
	c.cfg, c.e = &cfg, &examination{app: &app{}, cfg: &cfg}
	return c
}

// look is one look at the hosts.
func (c *clinic) look() map[verdict][]string {
	c.t.Helper()
	found := map[verdict][]string{}
	for _, f := range c.e.fleet(c.t.Context()) {
		found[f.Verdict] = append(found[f.Verdict], f.Found)
		require.Equal(c.t, f.Verdict != good, f.Remedy != "", "%s", f.Found)
	}
	return found
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestDoctorFleet(t *testing.T) {
	t.Parallel()
	c := newClinic(t, nil)
	cfg, look := c.cfg, c.look
	found := look()
	require.Empty(t, found[fail])
	require.Empty(t, found[warn])
	require.Len(t, found[skip], 1)
	require.Contains(t, found[skip][0], "does not tell")
	require.Len(t, found[good], 3)
	require.Zero(t, c.srv.Counters().Creates)

	cfg.Flintlock.RootFSImage = strings.Split(cfg.Flintlock.RootFSImage, "@")[0] + "@sha256:" + strings.Repeat("0", 64)
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
	require.Empty(t, c.e.fleet(t.Context()))
	require.DirExists(t, filepath.Dir(cfg.Image.Dir))
}

// caller plays the guest as the agent does: it calls, and turns itself off, because doctor has no work for it.
func (c *clinic) caller(change func(*guest.CallerConfig)) func(ctx context.Context, g *flintlocktest.Guest) {
	return func(ctx context.Context, g *flintlocktest.Guest) {
		m, err := guest.DecodeMetadata([]byte(g.Metadata[guest.MetadataKey]))
		if err != nil {
			return
		}
		config := guest.CallerConfig{
			ID: m.ID, Token: m.Token, Endpoint: m.Endpoint, Fingerprint: m.Fingerprint, MinBackoff: 10 * time.Millisecond,
			Hello: guest.FromGuest{Agent: "played"},
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				_, port, _ := net.SplitHostPort(address)
				return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
			},
		}
		change(&config)
		call := guest.Call(config)
		defer call.Close()
		if start, err := call.Start(ctx); err == nil && start.Start.MachineID == "" {
			_ = call.Flush(ctx)
		}
	}
}

func TestDoctorFleetDeep(t *testing.T) {
	t.Parallel()
	t.Run("OK", func(t *testing.T) {
		t.Parallel()
		var c *clinic
		c = newClinic(t, func(ctx context.Context, g *flintlocktest.Guest) { c.caller(func(*guest.CallerConfig) {})(ctx, g) })
		c.cfg.Hosts[0].Addresses = config.Addresses{Range: "10.42.0.0/24", Gateway: "10.42.0.1"}
		c.e.deep = true
		found := c.look()
		require.Empty(t, found[fail])
		require.Empty(t, found[warn])
		require.Contains(t, strings.Join(found[good], "\n"), "h made a microVM of image default: its process was started after")
		require.Contains(t, strings.Join(found[good], "\n"), "h: its guest called FireRunner at 192.0.2.1:")
		require.Contains(t, found[good], "h: its clock is within 2s of ours")
		require.Contains(t, found[good][len(found[good])-1], "h removed it in ")
		require.Len(t, found[skip], 1)
		require.Contains(t, found[skip][0], "resync period")
		require.Empty(t, c.srv.VMs())
	})
	t.Run("ClockAndResync", func(t *testing.T) {
		t.Parallel()
		var c *clinic
		c = newClinic(t, func(ctx context.Context, g *flintlocktest.Guest) {
			c.caller(func(cfg *guest.CallerConfig) { cfg.Now = func() time.Time { return time.Now().Add(-75 * time.Second) } })(ctx, g)
		})
		c.e.deep, c.e.resync = true, 30*time.Second
		found := c.look()
		require.Empty(t, found[fail])
		require.Empty(t, found[skip])
		require.Len(t, found[warn], 2)
		require.Contains(t, found[warn][0], "h: its clock is off by -1m15")
		require.Contains(t, found[warn][1], "h: flintlockd's resync period is ")
		require.GreaterOrEqual(t, c.srv.Counters().GhostBoots, 2)
		require.Empty(t, c.srv.VMs())
	})
	t.Run("NoResync", func(t *testing.T) {
		t.Parallel()
		require.Contains(t, resyncPeriod(t.Context(), &probedGuest{}, "h", time.Millisecond).Found, "it is off")
		once := &probedGuest{ghost: make(chan time.Time, 1)}
		once.ghost <- time.Now()
		require.Equal(t, good, resyncPeriod(t.Context(), once, "h", 20*time.Millisecond).Verdict)
		require.Equal(t, good, judgeResync("h", 10*time.Minute).Verdict)
		require.Equal(t, skip, hostClock("h", 0).Verdict)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		require.Contains(t, resyncPeriod(ended, &probedGuest{}, "h", time.Hour).Found, "interrupted")
	})
	t.Run("ErrSilentGuest", func(t *testing.T) {
		t.Parallel()
		c := newClinic(t, nil)
		c.e.deep, c.e.resync = true, time.Hour // which is not waited for
		c.cfg.Deadlines.Booting = 200 * time.Millisecond
		found := c.look()
		require.Len(t, found[fail], 1)
		require.Contains(t, found[fail][0], "did not call FireRunner at 192.0.2.1:")
		require.Empty(t, c.srv.VMs())
	})
	t.Run("ErrCertificate", func(t *testing.T) {
		t.Parallel()
		var c *clinic
		c = newClinic(t, func(ctx context.Context, g *flintlocktest.Guest) {
			c.caller(func(cfg *guest.CallerConfig) { cfg.Fingerprint[0] ^= 1 })(ctx, g)
		})
		c.e.deep = true
		c.cfg.Deadlines.Booting = 500 * time.Millisecond
		found := c.look()
		require.Len(t, found[fail], 1)
		require.Contains(t, found[fail][0], "broke off before")
		require.Empty(t, c.srv.VMs())
	})
	// Beside a daemon, which has the port, the host still has to make a microVM.
	t.Run("PortTaken", func(t *testing.T) {
		t.Parallel()
		c := newClinic(t, nil)
		c.e.deep = true
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(c.cfg.Guest.Port)))
		require.NoError(t, err)
		defer l.Close()
		found := c.look()
		require.Empty(t, found[fail])
		require.Len(t, found[skip], 1)
		require.Contains(t, found[skip][0], "listens at")
		require.Equal(t, 1, c.srv.Counters().Boots)
		require.Empty(t, c.srv.VMs())
	})
	t.Run("ErrHost", func(t *testing.T) {
		t.Parallel()
		c := newClinic(t, nil)
		c.e.deep = true
		_, err := c.srv.AddFault(flintlocktest.Fault{Action: flintlocktest.FaultError, Method: "CreateMicroVM", Message: "the thin pool is full"})
		require.NoError(t, err)
		found := c.look()
		require.Len(t, found[fail], 1)
		require.Contains(t, found[fail][0], "the thin pool is full")
	})
}
