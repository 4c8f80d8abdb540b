package sim

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

// shared is what a Memory keeps for several controllers. Its clock is the database's: no controller's has a say.
type shared struct {
	leases       map[string]firerunner.Lease
	controllers  map[string]firerunner.Controller
	installation string
	epoch        int64 // the last one of any lease, so that none comes again
}

var (
	_ firerunner.Leases   = (*Memory)(nil)
	_ firerunner.Registry = (*Memory)(nil)
	_ firerunner.Fence    = (*memoryTx)(nil)
)

// alone does something to the site between two transactions: whoever takes a lease waits until what is written under it is.
func (m *Memory) alone(ctx context.Context, do func(s *shared) error) error {
	if err := context.Cause(ctx); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "write to the store: %w", err)
	}
	select {
	case <-m.writer:
	case <-ctx.Done():
		return firerunner.Errorf(firerunner.Unavailable, "wait to write to the store: %w", context.Cause(ctx))
	}
	defer func() { m.writer <- struct{}{} }()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return firerunner.Errorf(firerunner.Unavailable, "write to the store: it is closed")
	}
	return do(&m.shared)
}

func checkLease(name, holder string, ttl time.Duration) error {
	if name == "" || holder == "" || ttl < time.Microsecond {
		return firerunner.Errorf(firerunner.Invalid, "lease %q for %q: a name, a holder and a time are required", name, holder)
	}
	return nil
}

// inForce fails with Conflict unless l is had now.
func (s *shared) inForce(l firerunner.Lease) error {
	known := s.leases[l.Name]
	if known.Holder != l.Holder || known.Epoch != l.Epoch || !known.Until.After(time.Now()) {
		return firerunner.Errorf(firerunner.Conflict, "the lease %q of %q, epoch %d, is over", l.Name, l.Holder, l.Epoch)
	}
	return nil
}

// Acquire implements firerunner.Leases.
func (m *Memory) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (l firerunner.Lease, ok bool, err error) {
	if err := checkLease(name, holder, ttl); err != nil {
		return l, false, err
	}
	err = m.alone(ctx, func(s *shared) error {
		known, now := s.leases[name], time.Now()
		over := !known.Until.After(now)
		if l = known; !over && known.Holder != holder {
			return nil
		}
		if over {
			s.epoch++
			l.Epoch = s.epoch
		}
		l.Name, l.Holder, l.Until = name, holder, kept(now.Add(ttl))
		s.leases[name], ok = l, true
		return nil
	})
	return l, ok, err
}

// Renew implements firerunner.Leases.
func (m *Memory) Renew(ctx context.Context, l firerunner.Lease, ttl time.Duration) (firerunner.Lease, error) {
	if err := checkLease(l.Name, l.Holder, ttl); err != nil {
		return l, err
	}
	err := m.alone(ctx, func(s *shared) error {
		if err := s.inForce(l); err != nil {
			return err
		}
		l.Until = kept(time.Now().Add(ttl))
		s.leases[l.Name] = l
		return nil
	})
	return l, err
}

// Release implements firerunner.Leases.
func (m *Memory) Release(ctx context.Context, l firerunner.Lease) error {
	return m.alone(ctx, func(s *shared) error {
		if known := s.leases[l.Name]; known.Holder == l.Holder && known.Epoch == l.Epoch {
			delete(s.leases, l.Name)
		}
		return nil
	})
}

// LeasesOf implements firerunner.Leases.
func (m *Memory) LeasesOf(ctx context.Context, prefix string) ([]firerunner.Lease, error) {
	if err := check(ctx); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	var found []firerunner.Lease
	for name, l := range m.shared.leases {
		if strings.HasPrefix(name, prefix) {
			l.Over = !l.Until.After(time.Now())
			found = append(found, l)
		}
	}
	slices.SortFunc(found, func(a, b firerunner.Lease) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

// Under implements firerunner.Fence.
func (t *memoryTx) Under(ctx context.Context, l firerunner.Lease) error {
	if err := check(ctx); err != nil {
		return err
	}
	t.m.mu.RLock()
	defer t.m.mu.RUnlock()
	return t.m.shared.inForce(l)
}

// SaveController implements firerunner.Registry.
func (m *Memory) SaveController(ctx context.Context, c firerunner.Controller) error {
	return m.alone(ctx, func(s *shared) error {
		c.Machine, c.StartedAt = text(c.Machine), kept(c.StartedAt)
		s.controllers[c.Name] = c
		return nil
	})
}

// Controllers implements firerunner.Registry.
func (m *Memory) Controllers(ctx context.Context) ([]firerunner.Controller, error) {
	if err := check(ctx); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	var all []firerunner.Controller
	for _, name := range slices.Sorted(maps.Keys(m.shared.controllers)) {
		all = append(all, m.shared.controllers[name])
	}
	return all, nil
}

// ForgetController implements firerunner.Registry.
func (m *Memory) ForgetController(ctx context.Context, name string) error {
	return m.alone(ctx, func(s *shared) error {
		delete(s.controllers, name)
		return nil
	})
}

// Installation implements firerunner.Registry.
func (m *Memory) Installation(ctx context.Context, proposed string) (installation string, err error) {
	err = m.alone(ctx, func(s *shared) error {
		s.installation = cmp.Or(s.installation, proposed)
		if installation = s.installation; installation == "" {
			return firerunner.Errorf(firerunner.NotFound, "this site has no mark yet")
		}
		return nil
	})
	return installation, err
}
