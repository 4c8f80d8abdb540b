package control_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/control"
)

// pair is a world with two controllers, a and b, on one store. Each has a machine of its own, m1 and m2, on which its driver
// makes microVMs, and a real lease.
type pair struct {
	*testing.T
	*world
	a, b *seat
	away map[string]bool // of whom the other believes that nobody acts for it
	lead string
}

type seat struct {
	name, host string
	control    *control.Control
	lease      firerunner.Lease
	log        bytes.Buffer
	made       []string // microVMs, by its driver
}

// seatDriver is the driver of one machine.
type seatDriver struct {
	modelDriver
	seat *seat
}

func (d seatDriver) Create(ctx context.Context, spec firerunner.MicroVMSpec) (firerunner.MicroVM, error) {
	if spec.Host != d.seat.host {
		d.w.fail("controller %s makes a microVM on %s", d.seat.name, spec.Host)
	}
	d.seat.made = append(d.seat.made, spec.ID)
	return d.modelDriver.Create(ctx, spec)
}

func (d seatDriver) Destroy(ctx context.Context, id string) error {
	if vm := d.w.vms[id]; vm != nil && vm.spec.Host != d.seat.host {
		d.w.fail("controller %s destroys microVM %s of %s", d.seat.name, id, vm.spec.Host)
	}
	return d.modelDriver.Destroy(ctx, id)
}

func (d seatDriver) List(ctx context.Context) (here []firerunner.MicroVM, _ error) {
	all, err := d.modelDriver.List(ctx)
	for _, vm := range all {
		if d.w.vms[vm.ID].spec.Host == d.seat.host {
			here = append(here, vm)
		}
	}
	return here, err
}

func newPair(t *testing.T) *pair {
	t.Helper()
	var current *world
	p := &pair{T: t, world: newWorld(t.Fatalf, modelStore(t, &current), 1), away: map[string]bool{}, lead: "a"}
	current = p.world
	require.NoError(t, p.store.Update(t.Context(), func(tx firerunner.Tx) error { return tx.RemoveHost(t.Context(), "here") }))
	p.a, p.b = &seat{name: "a", host: "m1"}, &seat{name: "b", host: "m2"}
	for _, s := range []*seat{p.a, p.b} {
		p.begin(s)
		require.NoError(t, s.control.SyncHosts(t.Context(), []firerunner.Host{machine(s.host)}))
	}
	return p
}

func machine(name string) firerunner.Host {
	return firerunner.Host{Name: name, Driver: "model", VCPUs: 8, MemoryMiB: 65536, Slots: 2}
}

// begin starts a process of a controller, under a lease of its own.
func (p *pair) begin(s *seat) {
	p.Helper()
	var ok bool
	var err error
	s.lease, ok, err = p.store.Acquire(p.Context(), firerunner.LeaseOf(s.name), "holder of "+s.name, time.Hour)
	require.NoError(p, err)
	require.True(p, ok)
	s.control, err = control.New(control.Config{
		Store: p.store, GitLab: p.world, Driver: seatDriver{modelDriver{p.world}, s}, LocalHost: s.host, Controller: s.name,
		Image:        func(context.Context, string) (firerunner.Image, error) { return firerunner.Image{Name: "debian"}, nil },
		Installation: "inst1", Profiles: profiles(), GuestURL: "http://gitlab", SweepProjects: []int64{p.project}, SweepWindow: time.Hour,
		SweepPerMinute: 1e9, Logger: slog.New(slog.NewTextHandler(&s.log, nil)),
		Now: func() time.Time { return p.now }, Elapsed: func() time.Duration { return p.elapsed },
		NewID: func() string { return fmt.Sprintf("r%015d", p.id()) }, StopGrace: time.Nanosecond,
		Peers: control.Peers{
			Under: func(ctx context.Context, tx firerunner.Tx) error { return tx.(firerunner.Fence).Under(ctx, s.lease) },
			Holds: func() bool { return true }, // it believes so
			Leads: func() bool { return p.lead == s.name },
			Away:  func(name string) bool { return p.away[name] },
		},
	})
	require.NoError(p, err)
	require.NoError(p, s.control.Adopt(p.Context()))
}

// of is the controller of a runner.
func (p *pair) of(name string) *seat {
	if name == p.b.name {
		return p.b
	}
	return p.a
}

// settle does every step that is due: those for a controller there, the others wherever somebody is. Those of one that is
// away wait for it.
func (p *pair) settle() {
	p.Helper()
	var waiting []firerunner.Step
	for n := 0; len(p.steps) > 0; n++ {
		require.Less(p, n, 1000, "it does not come to rest: %v", p.steps)
		s := p.steps[0]
		p.steps = p.steps[1:]
		doer := []*seat{p.b, p.a}[n%2] // one as well as the other
		if s.Kind == firerunner.StepAdvance && s.Controller != "" {
			doer = p.of(s.Controller)
			if p.away[doer.name] {
				waiting = append(waiting, s)
				continue
			}
		}
		if p.away[doer.name] {
			doer = p.of(map[string]string{"a": "b", "b": "a"}[doer.name])
		}
		if err := doer.control.Steps()[s.Kind](context.Background(), s); err != nil {
			waiting = append(waiting, s)
		}
	}
	p.steps = waiting
}

// hear lets guests do the next thing and tells their controllers.
func (p *pair) hear(ids ...string) {
	p.Helper()
	for _, id := range ids {
		p.act(id)
		p.world.control = p.of(p.runner(id).Controller).control
		for p.deliver(id, false) {
		}
	}
	p.settle()
}

func (p *pair) runner(id string) firerunner.Runner {
	p.Helper()
	r, err := p.store.Runner(p.Context(), id)
	require.NoError(p, err)
	return r
}

func (p *pair) hostRow(name string) firerunner.Host {
	p.Helper()
	rows, err := p.store.Hosts(p.Context())
	require.NoError(p, err)
	i := slices.IndexFunc(rows, func(h firerunner.Host) bool { return h.Name == name })
	require.GreaterOrEqual(p, i, 0)
	return rows[i]
}

// provisioned lets the leader sweep and everything be done; it returns the runners by host, the oldest first.
func (p *pair) provisioned() map[string][]firerunner.Runner {
	p.Helper()
	p.passTime(time.Second)
	require.NoError(p, p.of(p.lead).control.Sweep(p.Context()))
	p.settle()
	by := map[string][]firerunner.Runner{}
	for _, r := range p.rows(p.T) {
		if r.State != firerunner.Gone {
			by[r.Host] = append(by[r.Host], r)
		}
	}
	return by
}

// TestControllersPlace: whoever places gives a runner to the controller whose machine it is placed on, and only that one
// touches it; a step that came to another is passed on.
func TestControllersPlace(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	for range 5 {
		p.newJob(small)
	}
	by := p.provisioned()
	require.Len(t, by["m1"], 2)
	require.Len(t, by["m2"], 2)
	require.Len(t, by[""], 1, "there is room for four")
	for _, s := range []*seat{p.a, p.b} {
		for _, r := range by[s.host] {
			require.Equal(t, s.name, r.Controller)
			require.Equal(t, firerunner.Booting, r.State)
			require.Contains(t, s.made, r.ID)
		}
		require.Len(t, s.made, 2)
	}
	require.Empty(t, by[""][0].Controller, "before it is placed it is anybody's")

	theirs := by["m2"][0]
	require.Empty(t, p.steps)
	step := firerunner.Step{Kind: firerunner.StepAdvance, RunnerID: theirs.ID, Controller: "a"}
	require.NoError(t, p.a.control.Steps()[firerunner.StepAdvance](t.Context(), step))
	require.Equal(t, []firerunner.Step{{Kind: firerunner.StepAdvance, RunnerID: theirs.ID, Controller: "b"}}, p.steps)
	require.Equal(t, theirs, p.runner(theirs.ID))

	p.passTime(firerunner.DefaultDeadlines().Booting + time.Second)
	require.NoError(t, p.a.control.Expire(t.Context()))
	require.Equal(t, firerunner.Unwanted, p.runner(by["m1"][0].ID).Desired)
	require.Equal(t, firerunner.Wanted, p.runner(theirs.ID).Desired, "its own controller sees to it")
	require.NoError(t, p.b.control.Expire(t.Context()))
	require.Equal(t, firerunner.Unwanted, p.runner(theirs.ID).Desired)
}

func TestErrHostOfAnotherController(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	before := p.hostRow("m1")
	err := p.b.control.SyncHosts(t.Context(), []firerunner.Host{machine("m1")})
	require.Equal(t, firerunner.Conflict, firerunner.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, `host m1 is the machine of controller "a"`)
	require.Contains(t, firerunner.HintOf(err), "scheduler.host_name")
	require.Equal(t, before, p.hostRow("m1"))
	require.False(t, p.hostRow("m2").Draining, "nothing of it was done")
}

// TestLateWrite: a process whose lease was taken meanwhile, and that does not know it yet, leaves nothing in the database,
// whatever it was doing; and it says so.
func TestLateWrite(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	for range 3 {
		p.newJob(small)
	}
	by := p.provisioned()
	theirs := by["m1"][0]
	p.newJob(small)
	require.NoError(t, p.store.Release(t.Context(), p.a.lease))
	_, ok, err := p.store.Acquire(t.Context(), p.a.lease.Name, "another", time.Hour)
	require.NoError(t, err)
	require.True(t, ok)
	p.passTime(firerunner.DefaultDeadlines().Booting + time.Second)
	look := func() (all []any) {
		events, err := p.store.Events(t.Context(), firerunner.EventQuery{})
		require.NoError(t, err)
		hosts, err := p.store.Hosts(t.Context())
		require.NoError(t, err)
		return append(all, events, hosts, p.rows(t), slices.Clone(p.steps))
	}
	before := look()
	late := p.a.control
	for name, do := range map[string]func(context.Context) error{
		"a guest's report": func(ctx context.Context) error {
			return late.Apply(ctx, theirs.ID, firerunner.GuestReport{Seq: 1, Kind: firerunner.ReportHello})
		},
		"a deadline":        late.Expire,
		"a microVM is gone": func(ctx context.Context) error { return late.Lost(ctx, theirs.ID) },
		"its hosts": func(ctx context.Context) error {
			return late.SyncHosts(ctx, []firerunner.Host{machine("m1"), machine("m3")})
		},
		"who is away":         func(ctx context.Context) error { p.away["b"] = true; return late.NoticeAway(ctx) },
		"what a dead one did": late.Adopt,
	} {
		p.a.log.Reset()
		err := do(t.Context())
		p.away["b"] = false
		require.Error(t, err, name)
		require.Equal(t, firerunner.Conflict, firerunner.CodeOf(err), "%s: %v", name, err)
		require.Contains(t, p.a.log.String(), `level=ERROR msg="a late write was refused: the lease of this controller is over"`, name)
		require.Equal(t, before, look(), name)
	}
}
