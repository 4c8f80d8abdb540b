package control_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/control"
	"github.com/firerunner/firerunner/internal/driver/fake"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// fleetDriver is a driver of several hosts, each of which can fall silent or into trouble. What runs there goes on.
type fleetDriver struct {
	firerunner.Driver
	mu      sync.Mutex
	silent  map[string]bool
	trouble map[string]error
	stuck   map[string]bool // microVMs of these hosts cannot be removed
}

func newFleetDriver(d firerunner.Driver) *fleetDriver {
	return &fleetDriver{Driver: d, silent: map[string]bool{}, trouble: map[string]error{}, stuck: map[string]bool{}}
}

func (d *fleetDriver) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

func (d *fleetDriver) ProbeHost(_ context.Context, host string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.silent[host] {
		return firerunner.Errorf(firerunner.Unavailable, "dialling %s: refused", host)
	}
	return d.trouble[host]
}

func (d *fleetDriver) List(ctx context.Context) (vms []firerunner.MicroVM, err error) {
	all, err := d.Driver.List(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, vm := range all {
		if !d.silent[vm.Host] {
			vms = append(vms, vm)
		}
	}
	for host, silent := range d.silent {
		if silent {
			errs = append(errs, firerunner.Errorf(firerunner.Unavailable, "listing microVMs of %s: no answer", host))
		}
	}
	return vms, errors.Join(append(errs, err)...)
}

func (d *fleetDriver) Destroy(ctx context.Context, id string) error {
	all, err := d.Driver.List(ctx)
	if err != nil {
		return err
	}
	for _, vm := range all {
		d.mu.Lock()
		silent, stuck := d.silent[vm.Host], d.stuck[vm.Host]
		d.mu.Unlock()
		if vm.ID == id && silent {
			return firerunner.Errorf(firerunner.Unavailable, "host %s does not answer", vm.Host)
		}
		if vm.ID == id && stuck {
			return firerunner.Errorf(firerunner.Internal, "host %s cannot remove %s", vm.Host, id)
		}
	}
	return d.Driver.Destroy(ctx, id)
}

func fleetHost(name string, slots int) firerunner.Host {
	return firerunner.Host{Name: name, Driver: "fake", VCPUs: 64, MemoryMiB: 65536, Slots: slots}
}

// newFleet is a house with hosts. The first daemon's driver is the one for all.
func newFleet(t *testing.T, opts options, hosts ...firerunner.Host) (*house, *fleetDriver) {
	t.Helper()
	var fleet *fleetDriver
	change := opts.change
	opts.change = func(c *control.Config) {
		if fleet == nil {
			fleet = newFleetDriver(c.Driver)
		}
		c.Driver = fleet
		if change != nil {
			change(c)
		}
	}
	opts.host = &hosts[0]
	h := newHouse(t, opts)
	for _, host := range hosts[1:] {
		h.saveHost(host)
	}
	return h, fleet
}

func (h *house) host(name string) firerunner.Host {
	h.t.Helper()
	hosts, err := h.store.Hosts(context.Background())
	require.NoError(h.t, err)
	i := slices.IndexFunc(hosts, func(host firerunner.Host) bool { return host.Name == name })
	require.GreaterOrEqual(h.t, i, 0, "there is no host %s", name)
	return hosts[i]
}

// hostEvents are what was said about hosts.
func (h *house) hostEvents() (said []string) {
	for _, e := range h.events(firerunner.EventHost) {
		said = append(said, e.Message)
	}
	return said
}

// on is a runner of one host in one state.
func on(host string, state firerunner.State) func(firerunner.Runner) bool {
	return func(r firerunner.Runner) bool { return r.Host == host && r.State == state }
}

// A host dies under load: what had not begun runs elsewhere, what had is lost and never run twice, GitLab is clean at
// once, nothing waits for ever, and when the host is back it is cleared before it takes work.
func TestHostLost(t *testing.T) {
	t.Parallel()
	started, never := make(chan struct{}), make(chan struct{})
	begin := sync.OnceFunc(func() { close(started) })
	h, fleet := newFleet(t, options{
		change: func(c *control.Config) { c.HostProbeTimeout = time.Second },
		script: func(g *guest) error {
			if g.spec.Host == "b" {
				return work(g)
			}
			begin()
			return workAfter(never)(g)
		},
	}, fleetHost("a", 2))
	ids := h.push(small)
	receive(t, started)
	running := h.awaitRunner("running", on("a", firerunner.Running))

	h.play(func(g *guest) error { // boots, and says nothing
		if g.spec.Host == "b" {
			return work(g)
		}
		<-g.ctx.Done()
		return g.ctx.Err()
	})
	ids = append(ids, h.push(small)...)
	booting := h.awaitRunner("booting", on("a", firerunner.Booting))
	require.NoError(t, h.control.Probe(t.Context()))
	require.Equal(t, h.now().Unix()/100, h.host("a").SeenAt.Unix()/100)

	fleet.set(func() { fleet.silent["a"] = true })
	h.later(30 * time.Second)
	require.NoError(t, h.control.Probe(t.Context()))
	require.Equal(t, "it does not answer", h.host("a").Trouble)
	require.False(t, h.host("a").Lost)
	ids = append(ids, h.push(small)...)
	h.awaitRunner("told why", func(r firerunner.Runner) bool { return r.Message == "1 host: in trouble: it does not answer" })
	require.Len(t, h.live(), 3)

	h.saveHost(fleetHost("b", 4))
	h.later(31 * time.Second)
	for range 5 {
		require.False(t, h.host("a").Lost, "few answers are missing, and the clock may have jumped")
		require.NoError(t, h.control.Probe(t.Context()))
	}
	require.True(t, h.host("a").Lost)
	h.awaitJobs(gitlabtest.StatusSuccess, ids[1:]...)
	h.ranOnce(ids...)
	h.until("only what is lost is left", func() bool { return len(h.ours()) == 0 })
	outcome := func(id string) firerunner.Runner {
		r, err := h.store.Runner(t.Context(), id)
		require.NoError(t, err)
		return r
	}
	require.Equal(t, firerunner.Lost, outcome(running.ID).Outcome)
	require.Equal(t, firerunner.ReasonHostLost, outcome(running.ID).Reason)
	require.Equal(t, firerunner.Rejected, outcome(booting.ID).Outcome)
	require.Equal(t, firerunner.ReasonHostLost, outcome(booting.ID).Reason)
	require.Equal(t, firerunner.Stopping, outcome(running.ID).State, "it is tried until its deadline")

	h.later(61 * time.Second)
	require.NoError(t, h.control.Expire(t.Context()))
	h.until("nobody waits for the dead host", func() bool { return len(h.live()) == 0 })
	err := h.control.Reap(t.Context())
	require.ErrorContains(t, err, "listing microVMs of a: no answer")
	require.NotContains(t, err.Error(), "reaping", "a host that is lost is left alone")
	left, err := h.driver.List(t.Context())
	require.NoError(t, err)
	require.Len(t, left, 2)

	fleet.set(func() { fleet.silent["a"], fleet.stuck["a"] = false, true })
	require.Error(t, h.control.Probe(t.Context()))
	require.True(t, h.host("a").Lost, "it takes no work with that on it")
	require.Contains(t, h.host("a").Trouble, "what was left on it is not removed yet: ")
	fleet.set(func() { fleet.stuck["a"] = false })
	require.NoError(t, h.control.Probe(t.Context()))
	h.nothingLeft()
	require.False(t, h.host("a").Lost)
	require.Empty(t, h.host("a").Trouble)
	require.Len(t, h.events(firerunner.EventReaped), 2)
	said := strings.Join(h.hostEvents(), "\n")
	for _, part := range []string{"host a: in trouble, and takes no new work: it does not answer", "host a: lost: silent for ", "host a: it is back, and nothing is left on it"} {
		require.Contains(t, said, part)
	}
}

// A host is not lost for having been silent while nobody asked, nor before its time; a host in trouble finishes what it has.
func TestHostTrouble(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	h, fleet := newFleet(t, options{script: workAfter(gate)}, fleetHost("a", 2))
	ids := h.push(small)
	h.awaitRunner("running", on("a", firerunner.Running))
	fleet.set(func() {
		fleet.trouble["a"] = firerunner.Errorf(firerunner.Exhausted, "the thin pool is full\nof %s", strings.Repeat("x", 1000))
	})
	h.later(time.Hour)
	require.NoError(t, h.control.Probe(t.Context()))
	a := h.host("a")
	require.False(t, a.Lost)
	require.True(t, strings.HasPrefix(a.Trouble, "the thin pool is full of xxx"))
	require.Less(t, len(a.Trouble), 400)
	ids = append(ids, h.push(small)...)
	h.awaitRunner("told why", func(r firerunner.Runner) bool {
		return strings.HasPrefix(r.Message, "1 host: in trouble: the thin pool")
	})
	close(gate)
	h.awaitJobs(gitlabtest.StatusSuccess, ids[0])
	fleet.set(func() { delete(fleet.trouble, "a") })
	require.NoError(t, h.control.Probe(t.Context()))
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.nothingLeft()
	h.ranOnce(ids...)

	a = h.host("a")
	a.SeenAt = h.now().Add(-24 * time.Hour) // the daemon was away
	h.saveHost(a)
	h.restart()
	fleet.set(func() { fleet.silent["a"] = true })
	require.NoError(t, h.control.Probe(t.Context()))
	require.False(t, h.host("a").Lost)
	require.Equal(t, "it does not answer", h.host("a").Trouble)
	h.later(59 * time.Second)
	for range 6 {
		require.NoError(t, h.control.Probe(t.Context()))
	}
	require.False(t, h.host("a").Lost)
	h.later(2 * time.Second)
	require.NoError(t, h.control.Probe(t.Context()))
	require.True(t, h.host("a").Lost)
}

// The guests of a lost host may reach GitLab although the host does not answer us: whoever took a job unseen is lost with
// it, and no second one is made for that job.
func TestHostLostWithUnseenJob(t *testing.T) {
	t.Parallel()
	h, fleet := newFleet(t, options{script: func(g *guest) error {
		if g.spec.Host == "b" {
			return work(g)
		}
		g.hello()
		if _, err := g.take(); err != nil {
			return g.exit(0, err.Error())
		}
		<-g.ctx.Done() // and tells nobody
		return g.ctx.Err()
	}, noHooks: true}, fleetHost("a", 2))
	ids := h.push(small)
	h.hint(ids...)
	r := h.awaitRunner("ready", on("a", firerunner.Ready))
	h.until("GitLab gave it the job", func() bool { j, _ := h.gitlab.Job(ids[0]); return j.Status == gitlabtest.StatusRunning })
	h.saveHost(fleetHost("b", 4))
	fleet.set(func() { fleet.silent["a"] = true })
	h.later(2 * time.Minute)
	for range 6 {
		require.NoError(t, h.control.Probe(t.Context()))
	}
	r, err := h.store.Runner(t.Context(), r.ID)
	require.NoError(t, err)
	require.Equal(t, firerunner.Lost, r.Outcome)
	require.Equal(t, ids[0], r.JobID)
	h.ranOnce(ids...)
	require.Len(t, h.runners(), 1)
}

// Each microVM has an address of its host's pool, as a guest sets it up; one that is taken is waited for.
func TestAddresses(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	host := fleetHost("a", 8)
	host.Addresses = firerunner.AddressPool{
		First: netip.MustParseAddr("10.9.0.10"), Last: netip.MustParseAddr("10.9.0.11"), Bits: 24,
		Gateway: netip.MustParseAddr("10.9.0.1"), DNS: netip.MustParseAddr("10.9.0.2"),
	}
	h, _ := newFleet(t, options{script: workAfter(gate)}, host)
	ids := h.push(small, small, small)
	h.awaitRunner("waiting for an address", func(r firerunner.Runner) bool {
		return r.Message == "1 host: all addresses from 10.9.0.10 to 10.9.0.11 taken"
	})
	h.until("two run", func() bool {
		return len(slices.DeleteFunc(h.live(), func(r firerunner.Runner) bool { return r.State != firerunner.Running })) == 2
	})
	h.mu.Lock()
	var given []firerunner.GuestNetwork
	for _, g := range h.guests {
		given = append(given, g.spec.Address)
	}
	h.mu.Unlock()
	require.ElementsMatch(t, []firerunner.GuestNetwork{
		{Address: "10.9.0.10/24", Gateway: "10.9.0.1", DNS: "10.9.0.2"},
		{Address: "10.9.0.11/24", Gateway: "10.9.0.1", DNS: "10.9.0.2"},
	}, given)
	close(gate)
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.nothingLeft()
	moved := h.events(firerunner.EventMoved)
	require.True(t, slices.ContainsFunc(moved, func(e firerunner.Event) bool { return e.Message == "on host a, address 10.9.0.10" }))
}

// A size that the driver cannot make becomes the next one up, and the event says so; one that there is not is refused.
func TestFit(t *testing.T) {
	t.Parallel()
	h, _ := newFleet(t, options{change: func(c *control.Config) {
		c.Fit = func(s firerunner.Size) (firerunner.Size, string) {
			if s.VCPUs == 4 {
				return firerunner.Size{}, "there is none"
			}
			return firerunner.FitFlintlock(s)
		}
	}}, fleetHost("a", 8))
	ids := h.push("firecracker-3cpu-1gb", "firecracker-4cpu-1gb")
	h.awaitJobs(gitlabtest.StatusSuccess, ids[0])
	h.nothingLeft()
	require.Equal(t, 4, h.runners()[0].Size.VCPUs)
	require.Equal(t, "1 pending, 4cpu-1gb, profile default; 3cpu-1gb was asked for: flintlock makes 1 vCPU or an even number", h.events(firerunner.EventQueued)[0].Message)
	refused := h.events(firerunner.EventJobRefused)
	require.Len(t, refused, 1)
	require.Equal(t, "size 4cpu-1gb cannot be made: there is none", refused[0].Message)
	require.Equal(t, firerunner.ReasonSizeRefused, refused[0].Reason)
}

// A host that could not make a runner comes last for the next one of the same demand.
func TestRejectingHostComesLast(t *testing.T) {
	t.Parallel()
	small1 := fleetHost("tight", 8) // the better fit
	small1.VCPUs, small1.MemoryMiB = 2, 2048
	h, _ := newFleet(t, options{driver: fake.Config{CreateErr: func(s firerunner.MicroVMSpec) error {
		if s.Host == "tight" {
			return firerunner.Errorf(firerunner.Internal, "no")
		}
		return nil
	}}}, small1, fleetHost("wide", 8))
	ids := h.push(small)
	h.until("the first was rejected", func() bool { return len(h.events(firerunner.EventUnwanted)) == 1 })
	h.later(time.Minute) // the pause after a rejection
	h.hint(ids...)
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.nothingLeft()
	rs := h.runners()
	require.Len(t, rs, 2)
	require.Equal(t, []string{"tight", "wide"}, []string{rs[0].Host, rs[1].Host})
}

// What the configuration says becomes rows; what is known of a host and its draining are kept; a host that is no longer
// configured finishes what it has, and is removed.
func TestSyncHosts(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	h, _ := newFleet(t, options{script: workAfter(gate)}, fleetHost("a", 1))
	ids := h.push(small)
	h.awaitRunner("running", on("a", firerunner.Running))
	require.NoError(t, h.control.Probe(t.Context()))
	drained := fleetHost("b", 1)
	drained.Draining = true
	h.saveHost(drained)

	b := fleetHost("b", 7)
	b.Labels = []string{"zone=b"}
	require.NoError(t, h.control.SyncHosts(t.Context(), []firerunner.Host{fleetHost("a", 1), b, fleetHost("c", 2)}))
	require.False(t, h.host("a").SeenAt.IsZero(), "what is known is kept")
	require.True(t, h.host("b").Draining, "an operator's word is kept")
	require.Equal(t, 7, h.host("b").Slots)
	require.Equal(t, 2, h.host("c").Slots)
	before := len(h.hostEvents())
	require.NoError(t, h.control.SyncHosts(t.Context(), []firerunner.Host{fleetHost("a", 1), b, fleetHost("c", 2)}))
	require.Len(t, h.hostEvents(), before, "nothing new, nothing said")

	require.NoError(t, h.control.SyncHosts(t.Context(), []firerunner.Host{fleetHost("c", 2)}))
	require.True(t, h.host("a").Draining)
	hosts, err := h.store.Hosts(t.Context())
	require.NoError(t, err)
	require.Len(t, hosts, 2, "b was empty")
	more := h.push(small)
	h.awaitRunner("elsewhere", on("c", firerunner.Running))
	require.NoError(t, h.control.Notice(t.Context()))
	require.True(t, h.host("a").Draining)
	close(gate)
	h.awaitJobs(gitlabtest.StatusSuccess, append(ids, more...)...)
	h.nothingLeft()
	h.ranOnce(ids...)
	require.NoError(t, h.control.Notice(t.Context()))
	hosts, err = h.store.Hosts(t.Context())
	require.NoError(t, err)
	require.Len(t, hosts, 1)
	require.Contains(t, h.hostEvents(), "host a: removed: it is no longer configured, and it is empty")
}

// What another process does to a host is noticed by the daemon: work that waited goes there.
func TestNoticeHosts(t *testing.T) {
	t.Parallel()
	a := fleetHost("a", 4)
	a.Draining = true
	h, _ := newFleet(t, options{}, a)
	require.NoError(t, h.control.Notice(t.Context()))
	ids := h.push(small)
	h.awaitRunner("told why", func(r firerunner.Runner) bool { return r.Message == "1 host: draining" })
	a.Draining = false
	h.saveHost(a)
	require.NoError(t, h.control.Notice(t.Context()))
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.nothingLeft()
}

// Hosts are asked at the same time, but not all of them.
func TestProbesAreBounded(t *testing.T) {
	t.Parallel()
	const hosts = 40
	var all []firerunner.Host
	for i := range hosts {
		all = append(all, fleetHost(fmt.Sprintf("h%02d", i), 1))
	}
	slow := &slowProber{release: make(chan struct{})}
	h := newHouse(t, options{host: &all[0], change: func(c *control.Config) {
		slow.Driver = c.Driver
		c.Driver, c.HostProbeTimeout = slow, 50*time.Millisecond
	}})
	other := fleetHost("other", 1)
	other.Driver = "qemu" // not this driver's: never asked
	for _, host := range append(all[1:], other) {
		h.saveHost(host)
	}
	require.NoError(t, h.control.Probe(t.Context()))
	require.LessOrEqual(t, slow.most, 16)
	require.Greater(t, slow.most, 1)
	require.Equal(t, hosts, slow.asked)
	require.Equal(t, "it does not answer", h.host("h00").Trouble, "the deadline counts as silence")
	require.Empty(t, h.host("other").Trouble)
}

// slowProber never answers.
type slowProber struct {
	firerunner.Driver
	release          chan struct{}
	mu               sync.Mutex
	now, most, asked int
}

func (p *slowProber) ProbeHost(ctx context.Context, _ string) error {
	p.mu.Lock()
	p.now++
	p.asked++
	p.most = max(p.most, p.now)
	p.mu.Unlock()
	<-ctx.Done()
	p.mu.Lock()
	p.now--
	p.mu.Unlock()
	return ctx.Err()
}
