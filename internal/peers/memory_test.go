package peers_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/row"
	"github.com/firerunner/firerunner/internal/store/storetest"
)

// database has leases in memory, by the clock of a bubble, and keeps the promises of the real ones.
type database struct {
	firerunner.Store // what is not used here

	mu          sync.Mutex
	leases      map[string]row.Lease
	controllers map[string]firerunner.Controller
	events      []firerunner.Event
}

func newDatabase() *database {
	return &database{leases: map[string]row.Lease{}, controllers: map[string]firerunner.Controller{}}
}

func TestDatabase(t *testing.T) {
	storetest.ExerciseLeases(t, func(*testing.T) storetest.Leasing { return newDatabase() })
}

func now() int64 { return time.Now().UnixMicro() }

func (d *database) Acquire(_ context.Context, name, holder string, ttl time.Duration) (firerunner.Lease, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := row.CheckLease(name, holder, ttl); err != nil {
		return firerunner.Lease{}, false, err
	}
	l, ok, _ := d.leases[name].Take(name, holder, ttl, now())
	d.leases[name] = l
	return l.Lease(), ok, nil
}

func (d *database) Renew(_ context.Context, l firerunner.Lease, ttl time.Duration) (firerunner.Lease, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := row.CheckLease(l.Name, l.Holder, ttl); err != nil {
		return l, err
	}
	known := d.leases[l.Name]
	if err := known.Check(l, now()); err != nil {
		return l, err
	}
	known.Until = now() + ttl.Microseconds()
	d.leases[l.Name] = known
	return known.Lease(), nil
}

func (d *database) LeasesOf(_ context.Context, prefix string) ([]firerunner.Lease, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var of []firerunner.Lease
	for _, name := range slices.Sorted(maps.Keys(d.leases)) {
		if strings.HasPrefix(name, prefix) {
			l := d.leases[name].Lease()
			l.Over = d.leases[name].Until <= now()
			of = append(of, l)
		}
	}
	return of, nil
}

func (d *database) Release(_ context.Context, l firerunner.Lease) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if known := d.leases[l.Name]; known.Holder == l.Holder && known.Epoch == l.Epoch {
		delete(d.leases, l.Name)
	}
	return nil
}

func (d *database) SaveController(_ context.Context, c firerunner.Controller) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.controllers[c.Name] = c
	return nil
}

func (d *database) Controllers(context.Context) ([]firerunner.Controller, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.SortedFunc(maps.Values(d.controllers), func(a, b firerunner.Controller) int { return strings.Compare(a.Name, b.Name) }), nil
}

func (d *database) ForgetController(_ context.Context, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.controllers, name)
	return nil
}

func (d *database) Installation(context.Context, string) (string, error) { return "site", nil }

func (d *database) Events(context.Context, firerunner.EventQuery) ([]firerunner.Event, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.events), nil
}

func (d *database) Update(_ context.Context, do func(firerunner.Tx) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := &transaction{site: d}
	if err := do(t); err != nil {
		return err
	}
	d.events = append(d.events, t.events...)
	return nil
}

type transaction struct {
	firerunner.Tx
	site   *database
	events []firerunner.Event
}

func (t *transaction) AddEvent(_ context.Context, e firerunner.Event) error {
	t.events = append(t.events, e)
	return nil
}

func (t *transaction) Under(_ context.Context, l firerunner.Lease) error {
	return t.site.leases[l.Name].Check(l, now())
}

// line is one process's connection to the database, which may be cut.
type line struct {
	*database
	cut   atomic.Bool
	stall atomic.Int64 // how long each renewal takes
}

func (l *line) broken() error {
	if l.cut.Load() {
		return firerunner.Errorf(firerunner.Unavailable, "the line is cut")
	}
	return nil
}

func (l *line) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (firerunner.Lease, bool, error) {
	if err := l.broken(); err != nil {
		return firerunner.Lease{}, false, err
	}
	return l.database.Acquire(ctx, name, holder, ttl)
}

func (l *line) Renew(ctx context.Context, lease firerunner.Lease, ttl time.Duration) (firerunner.Lease, error) {
	if err := l.broken(); err != nil {
		return lease, err
	}
	time.Sleep(time.Duration(l.stall.Load()))
	return l.database.Renew(ctx, lease, ttl)
}

func (l *line) LeasesOf(ctx context.Context, prefix string) ([]firerunner.Lease, error) {
	if err := l.broken(); err != nil {
		return nil, err
	}
	return l.database.LeasesOf(ctx, prefix)
}
