package flintlock

import (
	"context"
	"encoding/base64"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

// entered is a config whose microVMs without an agent are provisioned by run.
func entered(run func(ctx context.Context, way firerunner.OutsideWay) error) func(*Config) {
	return func(c *Config) {
		c.Outside = func(host string, spec firerunner.MicroVMSpec) (firerunner.Outside, error) {
			return firerunner.Outside{UserData: "#cloud-config\n# private key of " + firerunner.Secret(spec.ID+" on "+host), Run: run}, nil
		}
	}
}

// plain is a microVM without an agent.
func (h *house) plain(id string) firerunner.MicroVMSpec {
	spec := h.spec(id, "h0")
	spec.Provision = firerunner.ProvisionSSH
	spec.Address = firerunner.GuestNetwork{Address: "10.42.0.9/24", Gateway: "10.42.0.1", DNS: "10.42.0.1"}
	return spec
}

// curious is a guest that tries its token, which is for its host to know it by.
func (h *house) curious(ctx context.Context, g *flintlocktest.Guest) {
	_, _ = h.admit(ctx, g)
	<-ctx.Done()
}

func TestOutsideOK(t *testing.T) {
	var dialled atomic.Value
	h := newHouse(t, 1, func(c *Config) {
		c.Dial = func(_ context.Context, network, address string) (net.Conn, error) {
			dialled.Store(network + " " + address)
			return nil, errors.New("nobody listens")
		}
	}, entered(func(ctx context.Context, way firerunner.OutsideWay) error {
		_, err := way.Dial(ctx, 2222)
		if err == nil || way.Start.Token.Reveal() != "glrt-secret" || way.Start.Network.DNS != "10.42.0.1" || way.Shut != nil {
			return errors.New("this is not what it should be")
		}
		way.Report(firerunner.GuestReport{Kind: firerunner.ReportHello, Message: "over SSH"})
		way.Report(firerunner.GuestReport{Kind: firerunner.ReportStarted})
		select {
		case order := <-way.Orders:
			way.Report(firerunner.GuestReport{Kind: firerunner.ReportRunnerExited, Message: string(order)})
		case <-ctx.Done():
		}
		return nil
	}))
	told := make(chan map[string]string, 1)
	h.guests(func(ctx context.Context, g *flintlocktest.Guest) {
		told <- g.Metadata
		h.curious(ctx, g)
	})
	vm, err := h.current().Create(h.ctx, h.plain("a"))
	require.NoError(t, err)
	require.True(t, vm.Alive)
	metadata := <-told
	require.Equal(t, "#cloud-config\n# private key of a on h0", metadata[userDataKey])
	require.Contains(t, metadata[metaDataKey], "instance-id: a\n")
	require.NotContains(t, metadata[firerunnerKey], "192.0.2.1", "it is not told whom to call")
	require.NotEmpty(t, metadata[vendorDataKey])
	h.until("a", firerunner.ReportStarted)
	require.Equal(t, "tcp 10.42.0.9:2222", dialled.Load())
	require.NoError(t, h.current().Order(h.ctx, "a", firerunner.OrderFinish))
	require.Equal(t, "finish", h.until("a", firerunner.ReportRunnerExited).Message)
	h.until("a", firerunner.ReportExited)
	h.gone("a")
	for _, err := range h.told("a") {
		require.Equal(t, firerunner.Unauthorized, firerunner.CodeOf(err), "nobody in it is let in")
	}
	h.destroyed("a")
}

// The process that provisioned it dies while a job runs, and the keys with it. The microVM stays, however long it is
// silent: what became of the job, GitLab says. It takes no orders, and is removed when it is told to be, or at its deadline.
func TestOutsideAfterCrash(t *testing.T) {
	var ahead atomic.Int64
	h := newHouse(t, 1, func(c *Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		c.OrderTimeout = 50 * time.Millisecond
	}, entered(func(ctx context.Context, way firerunner.OutsideWay) error {
		way.Report(firerunner.GuestReport{Kind: firerunner.ReportHello})
		way.Report(firerunner.GuestReport{Kind: firerunner.ReportTookJob, JobID: 7})
		<-ctx.Done()
		return ctx.Err()
	}))
	h.guests(h.curious)
	_, err := h.current().Create(h.ctx, h.plain("a"))
	require.NoError(t, err)
	h.until("a", firerunner.ReportTookJob)
	d := h.restart()
	ahead.Store(int64(30 * time.Minute)) // many times the time after which a guest that calls is given up
	d.tick()
	vm, ok := h.listed("a")
	require.True(t, ok)
	require.True(t, vm.Alive, "the job runs on")
	require.Equal(t, int64(7), h.until("a", firerunner.ReportTookJob).JobID)
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(d.Order(h.ctx, "a", firerunner.OrderStop)))
	again, err := d.Create(h.ctx, h.plain("a"))
	require.NoError(t, err)
	require.Equal(t, vm.CreatedAt, again.CreatedAt)
	require.Len(t, named(h.hosts[0].VMs(), "a"), 1, "it is not made twice")
	ahead.Store(int64(2 * time.Hour))
	d.tick()
	require.Equal(t, "ended at its deadline", h.until("a", firerunner.ReportExited).Message)
	h.gone("a")
	h.destroyed("a")
}

// It dies before it was in: what was made cannot be entered any more, so another one is made, with other keys.
func TestOutsideAfterEarlyCrash(t *testing.T) {
	begun := make(chan struct{}, 2)
	h := newHouse(t, 1, entered(func(ctx context.Context, way firerunner.OutsideWay) error {
		begun <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}))
	h.guests(func(ctx context.Context, _ *flintlocktest.Guest) { <-ctx.Done() })
	_, err := h.current().Create(h.ctx, h.plain("a"))
	require.NoError(t, err)
	<-begun
	before := named(h.hosts[0].VMs(), "a")[0].UID
	h.restart()
	vm, err := h.current().Create(h.ctx, h.plain("a"))
	require.NoError(t, err)
	require.True(t, vm.Alive)
	<-begun
	ctx, cancel := context.WithTimeout(h.ctx, within)
	defer cancel()
	require.NoError(t, h.hosts[0].Wait(ctx, func(vms []flintlocktest.VM) bool {
		there := named(vms, "a")
		return len(there) == 1 && there[0].UID != before
	}))
	h.destroyed("a")
}

func TestOutsideErr(t *testing.T) {
	h := newHouse(t, 1, entered(func(context.Context, firerunner.OutsideWay) error { return nil }))
	for name, c := range map[string]struct {
		change func(*Config, *firerunner.MicroVMSpec)
		code   firerunner.Code
		says   string
	}{
		"no address": {func(_ *Config, s *firerunner.MicroVMSpec) { s.Address = firerunner.GuestNetwork{} }, firerunner.Invalid, "no fixed address"},
		"nobody":     {func(c *Config, _ *firerunner.MicroVMSpec) { c.Outside = nil }, firerunner.Internal, "over SSH"},
		"no keys": {func(c *Config, _ *firerunner.MicroVMSpec) {
			c.Outside = func(string, firerunner.MicroVMSpec) (firerunner.Outside, error) {
				return firerunner.Outside{}, firerunner.Errorf(firerunner.Invalid, "a pinned host key is no public key")
			}
		}, firerunner.Invalid, "pinned"},
	} {
		t.Run(name, func(t *testing.T) {
			was := h.config
			defer func() { h.config = was; h.restart() }()
			spec := h.plain("a")
			c.change(&h.config, &spec)
			_, err := h.restart().Create(h.ctx, spec)
			require.Equal(t, c.code, firerunner.CodeOf(err), "%v", err)
			require.ErrorContains(t, err, c.says)
			require.Empty(t, h.leftovers("a"))
		})
	}
}

// One that cannot be entered is given up at once: nothing will come of it.
func TestOutsideGivesUp(t *testing.T) {
	h := newHouse(t, 1, entered(func(_ context.Context, way firerunner.OutsideWay) error {
		err := errors.New(`step "connect": the guest shows another host key`)
		way.Report(firerunner.GuestReport{Kind: firerunner.ReportError, Message: err.Error()})
		return err
	}))
	h.guests(func(ctx context.Context, _ *flintlocktest.Guest) { <-ctx.Done() })
	_, err := h.current().Create(h.ctx, h.plain("a"))
	require.NoError(t, err)
	require.Contains(t, h.until("a", firerunner.ReportError).Message, "another host key")
	require.Contains(t, h.until("a", firerunner.ReportExited).Message, "over SSH")
	h.gone("a")
	h.destroyed("a")
}

// The interfaces are told apart by their addresses, which cloud-init compares letter by letter.
func TestOutsideNetwork(t *testing.T) {
	mac := "06:4C:49:4D:9B:86"
	request := &types.MicroVMSpec{
		Kernel: &types.Kernel{Cmdline: map[string]string{"quiet": ""}, AddNetworkConfig: true}, Interfaces: []*types.NetworkInterface{{GuestMac: &mac}},
	}
	outsideNetwork(request, firerunner.GuestNetwork{Address: "10.42.0.9/24", Gateway: "10.42.0.1/24", DNS: "10.42.0.2"})
	require.False(t, request.Kernel.AddNetworkConfig)
	text, err := base64.StdEncoding.DecodeString(request.Kernel.Cmdline["network-config"])
	require.NoError(t, err)
	require.Equal(t, `version: 2
ethernets:
  eth0:
    match: {macaddress: "aa:ff:00:00:00:01"}
    set-name: eth0
    addresses: [169.254.0.1/16]
  eth1:
    match: {macaddress: "06:4c:49:4d:9b:86"}
    set-name: eth1
    addresses: [10.42.0.9/24]
    gateway4: 10.42.0.1
    nameservers: {addresses: [10.42.0.2]}
`, string(text))
}
