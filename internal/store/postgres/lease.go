package postgres

import (
	"context"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/postgres/sqlc"
	"github.com/firerunner/firerunner/internal/store/row"
)

var (
	_ firerunner.Leases = (*Store)(nil)
	_ firerunner.Fence  = (*tx)(nil)
)

// lease reads a row, the zero value where there is none, and the database's clock: in one round trip, since every
// transaction of control begins with it.
func (t *tx) lease(ctx context.Context, name string) (known row.Lease, now int64, err error) {
	found, err := t.q.Lease(ctx, name)
	return row.Lease{Name: found.Name, Holder: found.Holder, Epoch: found.Epoch, Until: found.Until}, found.Now, wrap(err, "read the lease %q", name)
}

// Acquire implements firerunner.Leases.
func (s *Store) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (l firerunner.Lease, ok bool, err error) {
	if err := row.CheckLease(name, holder, ttl); err != nil {
		return l, false, err
	}
	err = s.inTx(ctx, func(ctx context.Context, t *tx) error {
		known, now, err := t.lease(ctx, name)
		if err != nil {
			return err
		}
		taken, mine, changed := known.Take(name, holder, ttl, now)
		l, ok = taken.Lease(), mine
		if !mine {
			return nil
		}
		if changed && s.leases.Add(1)%row.LeasesPurgeEvery == 0 {
			if err := t.q.LeasesPurge(ctx, sqlc.LeasesPurgeParams{Before: now - row.LeasesKept.Microseconds(), Most: row.LeasesPurgeMost}); err != nil {
				return wrap(err, "forget old leases")
			}
		}
		return wrap(t.q.LeaseTake(ctx, sqlc.LeaseTakeParams(taken)), "take the lease %q", name)
	})
	return l, ok && err == nil, err
}

// Renew implements firerunner.Leases.
func (s *Store) Renew(ctx context.Context, l firerunner.Lease, ttl time.Duration) (firerunner.Lease, error) {
	if err := row.CheckLease(l.Name, l.Holder, ttl); err != nil {
		return l, err
	}
	err := s.inTx(ctx, func(ctx context.Context, t *tx) error {
		known, now, err := t.lease(ctx, l.Name)
		if err == nil {
			err = known.Check(l, now)
		}
		if err != nil {
			return err
		}
		known.Until = now + ttl.Microseconds()
		l.Until = known.Lease().Until
		return wrap(t.q.LeaseTake(ctx, sqlc.LeaseTakeParams(known)), "renew the lease %q", l.Name)
	})
	return l, err
}

// Release implements firerunner.Leases.
func (s *Store) Release(ctx context.Context, l firerunner.Lease) error {
	return s.inTx(ctx, func(ctx context.Context, t *tx) error {
		return wrap(t.q.LeaseDelete(ctx, sqlc.LeaseDeleteParams{Name: l.Name, Holder: l.Holder, Epoch: l.Epoch}), "release the lease %q", l.Name)
	})
}

// Under implements firerunner.Fence. Nobody can acquire a lease before this transaction has ended, because that takes the
// lock of writers too.
func (t *tx) Under(ctx context.Context, l firerunner.Lease) error {
	ctx, err := t.begin(ctx)
	if err != nil {
		return err
	}
	known, now, err := t.lease(ctx, l.Name)
	if err != nil {
		return err
	}
	return known.Check(l, now)
}
