package peers_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/peers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ttl = 5 * time.Second

// process is one controller's: what it did for others is written down.
type process struct {
	*testing.T
	*peers.Keeper
	line line

	mu                 sync.Mutex
	did                []string
	bearers            []string        // controllers of which live runners are left
	left               map[string]bool // those of which anything is left
	lost               []error
	renewals           map[string]int
	failIn, failGiving error
}

func newProcess(t *testing.T, d *database) *process {
	p := &process{T: t, left: map[string]bool{}, renewals: map[string]int{}}
	p.line.database = d
	return p
}

// note writes down what was done, which fails with what stands at fail now.
func (p *process) note(what string, fail *error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if *fail != nil {
		what += " failed"
	}
	p.did = append(p.did, what)
	return *fail
}

func (p *process) done() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.did)
}

func (p *process) set(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
}

func (p *process) config(name, holder string) peers.Config {
	return peers.Config{
		Leases: &p.line, Registry: &p.line, Holder: holder, TTL: ttl,
		Self: firerunner.Controller{Name: name, Driver: "fleet"},
		Bearers: func(context.Context) ([]string, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			return slices.Clone(p.bearers), nil
		},
		Left: func(_ context.Context, name string) (bool, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.left[name], nil
		},
		CanStandIn: func(c firerunner.Controller) bool { return c.Driver != "local" },
		StandIn:    func(_ context.Context, name string) error { return p.note("stand in for "+name, &p.failIn) },
		GiveBack:   func(_ context.Context, name string) error { return p.note("give back "+name, &p.failGiving) },
		Bury:       func(_ context.Context, name string) error { return p.note("bury "+name, new(error)) },
		Lost:       func(err error) { p.set(func() { p.lost = append(p.lost, err) }) },
		Observe:    func(result string) { p.set(func() { p.renewals[result]++ }) },
	}
}

// join lets a controller serve until the test ends.
func join(t *testing.T, d *database, name string) *process {
	p := newProcess(t, d)
	var err error
	p.Keeper, err = peers.Join(t.Context(), p.config(name, "holder of "+name))
	require.NoError(t, err)
	t.Cleanup(func() {
		p.line.cut.Store(false)
		p.set(func() { p.failGiving = nil })
		require.NoError(t, p.Leave(context.Background(), true))
	})
	p.Serve()
	synctest.Wait()
	return p
}

// over leaves the lease of a controller that died behind.
func over(t *testing.T, d *database, c firerunner.Controller) {
	_, ok, err := d.Acquire(t.Context(), firerunner.LeaseOf(c.Name), "the dead", time.Microsecond)
	require.NoError(t, err)
	require.True(t, ok)
	require.NoError(t, d.SaveController(t.Context(), c))
}

func bubble(t *testing.T, test func(t *testing.T, d *database)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(t, newDatabase()) })
}

func wait(d time.Duration) {
	time.Sleep(d) // by the bubble's clock
	synctest.Wait()
}

func TestLeaderHandsOver(t *testing.T) {
	bubble(t, func(t *testing.T, d *database) {
		a := join(t, d, "a")
		b := join(t, d, "b")
		require.True(t, a.Leads())
		require.False(t, b.Leads())
		wait(time.Minute)
		require.True(t, a.Leads() && a.Holds("a") && b.Holds("b"))
		require.False(t, a.Holds("b") || a.Away("b"))
		require.NoError(t, a.Rest(t.Context()))
		require.False(t, a.Leads())
		wait(ttl / 5)
		require.True(t, b.Leads(), "at once")
		require.True(t, a.Holds("a"), "its own goes on")
		require.Empty(t, b.done())
	})
}

func TestLeaderCutOff(t *testing.T) {
	bubble(t, func(t *testing.T, d *database) {
		a, b := join(t, d, "a"), join(t, d, "b")
		a.set(func() { a.left["b"] = true })
		b.set(func() { b.left["a"] = true })
		a.line.cut.Store(true)
		wait(ttl)
		require.False(t, a.Leads() || a.Holds("a"), "before anybody else can")
		wait(2 * ttl)
		require.True(t, b.Leads() && b.Holds("a"))
		require.Equal(t, []string{"stand in for a"}, b.done())
		require.Empty(t, a.lost)
		refused := d.Update(t.Context(), func(tx firerunner.Tx) error { return a.Under(t.Context(), tx, "a") })
		require.Equal(t, firerunner.Conflict, firerunner.CodeOf(refused), "a late write")
		a.line.cut.Store(false)
		wait(ttl)
		require.Len(t, a.lost, 1)
		require.Equal(t, firerunner.Conflict, firerunner.CodeOf(a.lost[0]))
		wait(time.Minute)
		require.Len(t, a.lost, 1, "once")
		require.Empty(t, a.done())
	})
}

// TestRenewalsAreObserved: what came of each, of all leases; that a Keeper ends is no failure.
func TestRenewalsAreObserved(t *testing.T) {
	bubble(t, func(t *testing.T, d *database) {
		a := join(t, d, "a")
		count := func() (counted map[string]int) {
			a.set(func() { counted = maps.Clone(a.renewals) })
			return counted
		}
		wait(ttl)
		ok := count()["ok"]
		require.Equal(t, map[string]int{"ok": ok}, count())
		require.InDelta(t, 2*ttl/a.Every, ok, 2, "its own, and the site's")
		a.set(func() { a.left["b"] = true })
		over(t, d, firerunner.Controller{Name: "b", Driver: "fleet"})
		wait(2 * ttl)
		require.InDelta(t, ok+5*int(ttl/a.Every), count()["ok"], 6, "and that of the one for which it stands in")

		a.line.cut.Store(true)
		wait(ttl / 2)
		require.Positive(t, count()["failed"])
		require.Zero(t, count()["lost"])
		c := join(t, d, "c")
		c.set(func() { c.left["a"] = true })
		wait(2 * ttl)
		require.True(t, c.Holds("a"), "it is away")
		a.line.cut.Store(false)
		wait(ttl)
		require.Len(t, a.lost, 1)
		require.Positive(t, count()["lost"])
	})
}

// TestNobodyIsCalledDead: when the database was away for all, whoever is back first stands in for nobody.
func TestNobodyIsCalledDead(t *testing.T) {
	bubble(t, func(t *testing.T, d *database) {
		a, b := join(t, d, "a"), join(t, d, "b")
		a.line.cut.Store(true)
		b.line.cut.Store(true)
		wait(time.Minute)
		a.line.cut.Store(false)
		wait(ttl / 2) // b is back a little later
		require.False(t, a.Away("b"))
		b.line.cut.Store(false)
		wait(time.Minute)
		require.Empty(t, a.done())
		require.Empty(t, b.done())
		require.Empty(t, append(a.lost, b.lost...))
		require.True(t, a.Holds("a") && b.Holds("b") && !a.Away("b"))
	})
}

// TestNobodyIsCalledDeadAfterAStall: no renewal failed, but they took nearly as long as a lease lives.
func TestNobodyIsCalledDeadAfterAStall(t *testing.T) {
	bubble(t, func(t *testing.T, d *database) {
		a := join(t, d, "a")
		a.line.stall.Store(int64(ttl * 9 / 10))
		wait(ttl / 2)
		over(t, d, firerunner.Controller{Name: "b", Driver: "fleet"})
		a.set(func() { a.left["b"] = true })
		a.line.stall.Store(0)
		wait(ttl)
		require.False(t, a.Away("b"))
		require.Empty(t, a.done())
		wait(2 * ttl)
		require.Equal(t, []string{"stand in for b"}, a.done())
	})
}

func TestStandsInUntilItIsBack(t *testing.T) {
	bubble(t, func(t *testing.T, d *database) {
		a := join(t, d, "a")
		a.set(func() { a.left["b"] = true })
		over(t, d, firerunner.Controller{Name: "b", Driver: "fleet"})
		wait(ttl)
		require.True(t, a.Holds("b"))
		require.NoError(t, d.Update(t.Context(), func(tx firerunner.Tx) error { return a.Under(t.Context(), tx, "b") }))
		began := time.Now()
		b := join(t, d, "b")
		require.LessOrEqual(t, time.Since(began), ttl/2)
		require.Equal(t, []string{"stand in for b", "give back b"}, a.done())
		wait(time.Minute)
		require.True(t, b.Holds("b"))
		require.False(t, a.Holds("b"))
		require.Len(t, a.done(), 2)
		claims, err := d.LeasesOf(t.Context(), "claim/")
		require.NoError(t, err)
		require.Empty(t, claims)
	})
}

func TestStandsInUntilNothingIsLeft(t *testing.T) {
	bubble(t, func(t *testing.T, d *database) {
		a := join(t, d, "a")
		a.set(func() { a.left["gone"], a.bearers = true, []string{"a", "gone"} }) // no lease, no row: only its runners say so
		wait(time.Minute)
		require.Equal(t, []string{"stand in for gone"}, a.done())
		a.set(func() { a.left["gone"], a.bearers = false, nil })
		wait(ttl)
		require.Equal(t, []string{"stand in for gone", "give back gone"}, a.done())
		leases, err := d.LeasesOf(t.Context(), firerunner.LeaseOf("gone"))
		require.NoError(t, err)
		require.Empty(t, leases)
	})
}

// TestStandInFails: it is tried again, even where what was begun cannot be ended at first, and nothing is forgotten meanwhile.
func TestStandInFails(t *testing.T) {
	bubble(t, func(t *testing.T, d *database) {
		a := join(t, d, "a")
		broken := errors.New("broken")
		a.set(func() { a.left["b"], a.failIn, a.failGiving = true, broken, broken })
		over(t, d, firerunner.Controller{Name: "b", Driver: "fleet"})
		wait(ttl)
		require.Equal(t, []string{"stand in for b failed", "give back b failed", "give back b failed"}, a.done()[:3])
		a.set(func() { a.failGiving = nil })
		wait(ttl)
		a.set(func() { a.failIn = nil })
		wait(time.Minute)
		did := a.done()
		require.Equal(t, []string{"stand in for b failed", "give back b", "stand in for b"}, did[len(did)-3:])
		require.True(t, a.Holds("b"))
	})
}

func TestBuriesWhomNobodyReaches(t *testing.T) {
	bubble(t, func(t *testing.T, d *database) {
		a := join(t, d, "a")
		a.set(func() { a.left["b"], a.bearers = true, []string{"b"} })
		over(t, d, firerunner.Controller{Name: "b", Driver: "local"})
		wait(time.Minute)
		require.Equal(t, []string{"bury b"}, a.done(), "once")
		require.True(t, a.Away("b"))
		since := func() time.Time {
			all, err := peers.See(t.Context(), d, d)
			require.NoError(t, err)
			at := slices.IndexFunc(all, func(s peers.Seen) bool { return s.Name == "b" })
			require.Equal(t, peers.Away, all[at].State)
			return all[at].Since
		}
		died := since()
		require.WithinDuration(t, time.Now().Add(-time.Minute), died, ttl, "something of it is left: its lease is not given up")
		wait(time.Hour)
		c := join(t, d, "c")
		wait(time.Minute)
		require.Empty(t, c.done(), "it was buried long ago")
		require.Equal(t, died, since(), "and is away as long")
		began := time.Now()
		b := join(t, d, "b")
		require.Less(t, time.Since(began), ttl)
		wait(ttl)
		require.False(t, a.Away("b"))
		require.True(t, b.Holds("b"))
	})
}

func TestErrSecondProcessOfOneName(t *testing.T) {
	bubble(t, func(t *testing.T, d *database) {
		a := join(t, d, "a")
		_, err := peers.Join(t.Context(), newProcess(t, d).config("a", "another machine"))
		require.Equal(t, firerunner.Conflict, firerunner.CodeOf(err))
		require.ErrorContains(t, err, `"a" (holder of a)`)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = peers.Join(ctx, newProcess(t, d).config("a", "another machine"))
		require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err), "%v", err)
		require.True(t, a.Holds("a"))
	})
}

// TestJoinFailsHalfWay: runners of the process before may be left, so the lease is over and not forgotten.
func TestJoinFailsHalfWay(t *testing.T) {
	bubble(t, func(t *testing.T, d *database) {
		require.NoError(t, d.SaveController(t.Context(), firerunner.Controller{Name: "a"}))
		p := newProcess(t, d)
		c := p.config("a", "holder")
		c.Registry = refusing{&p.line}
		_, err := peers.Join(t.Context(), c)
		require.ErrorContains(t, err, "the disk is full")
		known, err := d.Controllers(t.Context())
		require.NoError(t, err)
		require.Len(t, known, 1)
		wait(time.Millisecond)
		leases, err := d.LeasesOf(t.Context(), firerunner.ControllerLeases)
		require.NoError(t, err)
		require.Len(t, leases, 1)
		require.True(t, leases[0].Over)
	})
}

type refusing struct{ *line }

func (refusing) SaveController(context.Context, firerunner.Controller) error {
	return firerunner.Errorf(firerunner.Unavailable, "the disk is full")
}

func TestLeave(t *testing.T) {
	for name, empty := range map[string]bool{"Empty": true, "NotEmpty": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, d *database) {
				a, b := join(t, d, "a"), join(t, d, "b")
				b.set(func() { b.left["a"] = true })
				require.NoError(t, a.Leave(t.Context(), empty))
				wait(ttl / 4)
				require.True(t, b.Leads())
				known, err := d.Controllers(t.Context())
				require.NoError(t, err)
				if empty {
					require.Len(t, known, 1)
					require.Empty(t, b.done())
				} else {
					require.Len(t, known, 2)
					require.Equal(t, []string{"stand in for a"}, b.done(), "without waiting for the lease to expire")
				}
			})
		})
	}
}
