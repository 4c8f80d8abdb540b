package flintlock

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/sony/gobreaker/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/flintlocktest"
)

// TestHostSilent: a host that stops answering hides nothing, keeps what runs there, and is left alone for a while.
func TestHostSilent(t *testing.T) {
	h := newHouse(t, 2, func(c *Config) { c.BreakAfter, c.BreakFor, c.LookEvery = 3, 300*time.Millisecond, time.Hour })
	d := h.current()
	h.create("there", "h1")
	h.until("there", firerunner.ReportStarted)
	host, err := d.host("h1")
	require.NoError(t, err)
	h.hosts[1].StopDaemon()

	for range 3 { // the driver looks at the host by itself, too: it may be left alone before the third
		err = d.ProbeHost(h.ctx, "h1")
		require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
		require.ErrorContains(t, err, "host h1")
		require.Contains(t, firerunner.HintOf(err), "see that flintlockd runs")
	}
	require.Equal(t, gobreaker.StateOpen, host.breaker.State())
	calls := len(h.hosts[1].Calls())
	err = d.ProbeHost(h.ctx, "h1")
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
	require.ErrorContains(t, err, "left alone")
	require.Len(t, h.hosts[1].Calls(), calls)

	require.NoError(t, d.ProbeHost(h.ctx, "h0"), "one host's trouble is not another's")
	require.NoError(t, d.Probe(h.ctx))
	vm, ok := h.listed("there")
	require.True(t, ok)
	require.True(t, vm.Alive, "its guest still calls")
	_, err = d.Create(h.ctx, h.spec("new", "h1"))
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
	require.Empty(t, h.leftovers("new"))
	err = d.Destroy(h.ctx, "there")
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
	require.True(t, h.ledger.has("there"), "the record stays until the host says that it is gone")

	require.NoError(t, h.hosts[1].StartDaemon())
	require.Eventually(t, func() bool { return d.ProbeHost(h.ctx, "h1") == nil }, within, 50*time.Millisecond)
	require.Equal(t, gobreaker.StateClosed, host.breaker.State())
	h.destroyed("there")
}

// TestHostHangs: a call that is not answered ends at its deadline, and a caller that leaves is no fault of the host.
func TestHostHangs(t *testing.T) {
	h := newHouse(t, 1, func(c *Config) {
		c.CallTimeout, c.BreakAfter, c.BreakFor, c.LookEvery = 100*time.Millisecond, 3, time.Hour, time.Hour
	})
	d := h.current()
	host, err := d.host("h0")
	require.NoError(t, err)
	_, err = h.hosts[0].AddFault(flintlocktest.Fault{Action: flintlocktest.FaultDrop})
	require.NoError(t, err)
	for range 4 {
		ctx, cancel := context.WithTimeout(h.ctx, 10*time.Millisecond)
		require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(d.ProbeHost(ctx, "h0")))
		cancel()
	}
	require.Equal(t, gobreaker.StateClosed, host.breaker.State())
	for n := 0; host.breaker.State() != gobreaker.StateOpen; n++ {
		require.Less(t, n, 3)
		err = d.ProbeHost(h.ctx, "h0")
		require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
		require.Contains(t, firerunner.HintOf(err), "hangs")
	}
	require.Equal(t, gobreaker.StateOpen, host.breaker.State())
	require.Error(t, d.Probe(h.ctx))
}

// TestCallsAtOnce: no more calls than allowed are under way at one host.
func TestCallsAtOnce(t *testing.T) {
	h := newHouse(t, 1, func(c *Config) { c.CallsAtOnce = 1 })
	_, err := h.hosts[0].AddFault(flintlocktest.Fault{Action: flintlocktest.FaultDelay, Delay: 200 * time.Millisecond, Count: 1})
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- h.current().ProbeHost(h.ctx, "h0") }()
	host, err := h.current().host("h0")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(host.slots) == 1 }, within, time.Millisecond)
	ctx, cancel := context.WithTimeout(h.ctx, 20*time.Millisecond)
	defer cancel()
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(h.current().ProbeHost(ctx, "h0")))
	require.NoError(t, <-done)
	require.Len(t, h.hosts[0].Calls(), 1)
}

func TestHostToken(t *testing.T) {
	h := newHouse(t, 0)
	h.addHost(flintlocktest.Config{Token: "right"}, Host{Name: "good", TLS: TLS{Insecure: true}, Token: "right"})
	h.addHost(flintlocktest.Config{Token: "right"}, Host{Name: "bad", TLS: TLS{Insecure: true}, Token: "wrong"})
	h.addHost(flintlocktest.Config{Token: "right"}, Host{Name: "none", TLS: TLS{Insecure: true}})
	d := h.current()
	require.NoError(t, d.SetHosts(h.config.Hosts))
	require.NoError(t, d.ProbeHost(h.ctx, "good"))
	for _, name := range []string{"bad", "none"} {
		err := d.ProbeHost(h.ctx, name)
		require.Equal(t, firerunner.Unauthorized, firerunner.CodeOf(err), "%s: %v", name, err)
		require.Contains(t, firerunner.HintOf(err), "--basic-auth-token")
		_, err = d.Create(h.ctx, h.spec("x", name))
		require.Equal(t, firerunner.Unauthorized, firerunner.CodeOf(err))
		require.NotContains(t, err.Error(), "wrong")
		require.Empty(t, h.leftovers("x"))
	}
	h.create("x", "good")
	h.destroyed("x")
}

// TestRefusedBeforeSending: what validate refuses leaves no row and reaches no host.
func TestRefusedBeforeSending(t *testing.T) {
	h := newHouse(t, 1)
	for name, change := range map[string]func(*firerunner.MicroVMSpec){
		"3 vCPUs":    func(s *firerunner.MicroVMSpec) { s.Size.VCPUs = 3 },
		"512 MiB":    func(s *firerunner.MicroVMSpec) { s.Size.MemoryMiB = 512 },
		"too much":   func(s *firerunner.MicroVMSpec) { s.Size.VCPUs, s.Size.MemoryMiB = 999, 999<<40 },
		"no image":   func(s *firerunner.MicroVMSpec) { s.Image.OCI = firerunner.OCIImage{} },
		"a tag":      func(s *firerunner.MicroVMSpec) { s.Image.OCI.RootFS = "registry.example.com/root:1" },
		"a slash":    func(s *firerunner.MicroVMSpec) { s.ID = "a/b" },
		"an address": func(s *firerunner.MicroVMSpec) { s.Address.Address = "10.0.0.1" },
		"two words":  func(s *firerunner.MicroVMSpec) { s.Image.Cmdline = "a=1 a=2" },
	} {
		spec := h.spec("refused", "h0")
		change(&spec)
		_, err := h.current().Create(h.ctx, spec)
		require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err), "%s: %v", name, err)
		require.NotEmpty(t, firerunner.HintOf(err)+err.Error(), name)
		require.Empty(t, h.leftovers("refused"), name)
	}
	require.Empty(t, h.hosts[0].Calls())
	_, err := h.current().Create(h.ctx, h.spec("refused", "elsewhere"))
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
}

// TestSetHosts: a host that is taken out keeps what runs there, and has it when it is back.
func TestSetHosts(t *testing.T) {
	h := newHouse(t, 2)
	d := h.current()
	before, err := d.host("h0")
	require.NoError(t, err)
	h.create("there", "h1")
	h.until("there", firerunner.ReportStarted)
	require.NoError(t, d.SetHosts(h.config.Hosts[:1]))
	after, err := d.host("h0")
	require.NoError(t, err)
	require.Same(t, before, after, "what has not changed keeps its connection")
	err = d.Destroy(h.ctx, "there")
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
	require.Contains(t, firerunner.HintOf(err), "add it to hosts")
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(d.ProbeHost(h.ctx, "h1")))
	_, ok := h.listed("there")
	require.True(t, ok)
	require.Len(t, h.hosts[1].VMs(), 1)

	changed := h.config.Hosts[0]
	changed.Bridge = "br1"
	require.NoError(t, d.SetHosts([]Host{changed, h.config.Hosts[1]}))
	after, err = d.host("h0")
	require.NoError(t, err)
	require.NotSame(t, before, after)
	h.gone("there") // its end is recorded: it is deleted as soon as the host is there
	h.destroyed("there")

	require.NoError(t, d.SetHosts(nil))
	require.ErrorContains(t, d.Probe(h.ctx), "no hosts")
}

func TestConfigErrors(t *testing.T) {
	good := Config{Namespace: "fr-x", Ledger: newLedger(), GuestURL: "192.0.2.1:7443", GuestFingerprint: "sha256:" + digest[8:]}
	for name, change := range map[string]func(*Config){
		"no ledger":            func(c *Config) { c.Ledger = nil },
		"no namespace":         func(c *Config) { c.Namespace = "" },
		"namespace, a path":    func(c *Config) { c.Namespace = "a/b" },
		"no guest endpoint":    func(c *Config) { c.GuestURL = "" },
		"a URL":                func(c *Config) { c.GuestURL = "https://192.0.2.1" },
		"any address":          func(c *Config) { c.GuestURL = "0.0.0.0:7443" },
		"port 0":               func(c *Config) { c.GuestURL = "192.0.2.1:0" },
		"a short fingerprint":  func(c *Config) { c.GuestFingerprint = "sha256:12" },
		"an odd download":      func(c *Config) { c.Install = []Download{{}} },
		"a host without name":  func(c *Config) { c.Hosts = []Host{{Endpoint: "a:1"}} },
		"no endpoint":          func(c *Config) { c.Hosts = []Host{{Name: "a"}} },
		"two of one name":      func(c *Config) { c.Hosts = []Host{{Name: "a", Endpoint: "a:1"}, {Name: "a", Endpoint: "b:1"}} },
		"its guest endpoint":   func(c *Config) { c.Hosts = []Host{{Name: "a", Endpoint: "a:1", GuestURL: "x"}} },
		"insecure and a CA":    func(c *Config) { c.Hosts = []Host{{Name: "a", Endpoint: "a:1", TLS: TLS{Insecure: true, CAFile: "x"}}} },
		"a certificate alone":  func(c *Config) { c.Hosts = []Host{{Name: "a", Endpoint: "a:1", TLS: TLS{CertFile: "x"}}} },
		"a CA that is missing": func(c *Config) { c.Hosts = []Host{{Name: "a", Endpoint: "a:1", TLS: TLS{CAFile: "/nonexistent"}}} },
		"a CA that is none":    func(c *Config) { c.Hosts = []Host{{Name: "a", Endpoint: "a:1", TLS: TLS{CAFile: "/dev/null"}}} },
		"no certificate there": func(c *Config) {
			c.Hosts = []Host{{Name: "a", Endpoint: "a:1", TLS: TLS{CertFile: "/nonexistent", KeyFile: "/nonexistent"}}}
		},
		"a token of two lines": func(c *Config) { c.Hosts = []Host{{Name: "a", Endpoint: "a:1", Token: "a\nb"}} },
		"the second is wrong": func(c *Config) {
			c.Hosts = []Host{{Name: "a", Endpoint: "a:1"}, {Name: "b", Endpoint: "b:1", TLS: TLS{CAFile: "/dev/null"}}}
		},
	} {
		cfg := good
		change(&cfg)
		_, err := New(t.Context(), cfg)
		require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err), "%s: %v", name, err)
	}
	broken := newLedger()
	broken.breaks(func(string, string) error { return firerunner.Errorf(firerunner.Unavailable, "no database") })
	good.Ledger = broken
	_, err := New(t.Context(), good)
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
}

// TestNobodyListens: a host whose port is closed.
func TestNobodyListens(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	h := newHouse(t, 0)
	require.NoError(t, h.current().SetHosts([]Host{{Name: "closed", Endpoint: address, TLS: TLS{Insecure: true}}}))
	err = h.current().ProbeHost(h.ctx, "closed")
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
	require.ErrorContains(t, err, address)
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(h.current().Probe(h.ctx)))
	vms, err := h.current().List(h.ctx)
	require.NoError(t, err)
	require.Empty(t, vms)
}

// TestHostErrors: each answer of a host has one code of ours.
func TestHostErrors(t *testing.T) {
	h := newHouse(t, 1, func(c *Config) { c.BreakAfter = 100 })
	for from, to := range map[codes.Code]firerunner.Code{
		codes.Unknown: firerunner.Conflict, codes.InvalidArgument: firerunner.Invalid, codes.Unimplemented: firerunner.Conflict,
		codes.ResourceExhausted: firerunner.Exhausted, codes.PermissionDenied: firerunner.Unauthorized,
		codes.Unavailable: firerunner.Unavailable, codes.Canceled: firerunner.Unavailable, codes.DeadlineExceeded: firerunner.Unavailable,
	} {
		_, err := h.hosts[0].AddFault(flintlocktest.Fault{Action: flintlocktest.FaultError, Code: from, Message: "why\x1b[0m", Count: 1})
		require.NoError(t, err)
		err = h.current().ProbeHost(h.ctx, "h0")
		require.Equal(t, to, firerunner.CodeOf(err), "%s: %v", from, err)
		require.NotEmpty(t, firerunner.HintOf(err))
		require.NotContains(t, err.Error(), "\x1b", "a host's words are cleaned")
	}
}
