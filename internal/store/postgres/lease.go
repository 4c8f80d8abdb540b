package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

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
		t.shared.fence = nil
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
		t.shared.fence = nil
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
		t.shared.fence = nil
		return wrap(t.q.LeaseDelete(ctx, sqlc.LeaseDeleteParams{Name: l.Name, Holder: l.Holder, Epoch: l.Epoch}), "release the lease %q", l.Name)
	})
}

// fence is a lease as it was when the transaction looked.
type fence struct {
	row.Lease
	now int64 // the database's clock then
	at  time.Time
}

// foresee adds a look at a lease to the batch that begins a transaction: all that control writes is under the same. Without a
// name there is none.
func foresee(first *pgx.Batch, name string) *fence {
	if name == "" {
		return nil
	}
	seen := new(fence)
	var d deferred
	_, _ = sqlc.New(&d).Lease(context.Background(), name) // its answer comes with the batch's
	query := d.batch.QueuedQueries[0]
	first.QueuedQueries = append(first.QueuedQueries, query)
	query.Fn = func(results pgx.BatchResults) error {
		var l sqlc.LeaseRow
		err := results.QueryRow().Scan(&l.Now, &l.Name, &l.Holder, &l.Epoch, &l.Until)
		*seen = fence{Lease: row.Lease{Name: name, Holder: l.Holder, Epoch: l.Epoch, Until: l.Until}, now: l.Now, at: time.Now()}
		return wrap(err, "read the lease %q", name)
	}
	return seen
}

// Under implements firerunner.Fence. Nobody can acquire a lease before this transaction has ended, because that takes the
// lock of writers too: so one look is enough for all that share it.
func (t *tx) Under(ctx context.Context, l firerunner.Lease) error {
	ctx, _, err := t.within(ctx)
	if err != nil {
		return err
	}
	t.store.fenced = l.Name
	seen := t.shared.fence
	if seen == nil || seen.Name != l.Name {
		seen = &fence{at: time.Now()}
		if seen.Lease, seen.now, err = t.lease(ctx, l.Name); err != nil {
			return err
		}
		seen.Name = l.Name // also where there is none
		t.shared.fence = seen
	}
	return seen.Check(l, seen.now+time.Since(seen.at).Microseconds())
}
