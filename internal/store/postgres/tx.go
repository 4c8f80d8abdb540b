package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/baton"
	"github.com/firerunner/firerunner/internal/store/postgres/sqlc"
	"github.com/firerunner/firerunner/internal/store/row"
)

// Update implements firerunner.Store. do runs in the caller's goroutine, one at a time; Updates that come together share
// a commit (package baton) and still fail one by one. do must be quick, must not wait for anything but its Tx, and must not
// call Update: the second would wait for the first until ctx ends.
func (s *Store) Update(ctx context.Context, do func(tx firerunner.Tx) error) error {
	return s.baton.Update(ctx, func(shared *transaction, _ *baton.Told) error {
		t := &tx{store: s, shared: shared}
		t.reader = reader{q: sqlc.New(direct{shared}), within: t.within, inTx: true}
		defer func() { t.ended = true }()
		if err := do(t); err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return wrap(err, "update the store")
		}
		return t.end()
	})
}

// tx is one Update's part in a transaction: a firerunner.Tx.
type tx struct {
	reader
	store  *Store
	shared *transaction
	ended  bool

	pending pending
	known   known
	told    baton.Told // what was sent already
}

// within lets no statement be interrupted halfway: others share the transaction. A context that has ended stops the next
// statement instead. The group has a deadline of its own, for a server that falls silent.
func (t *tx) within(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if t.ended {
		return nil, nil, firerunner.Errorf(firerunner.Internal, "a transaction of the store was used after its end")
	}
	if err := context.Cause(ctx); err != nil {
		return nil, nil, wrap(err, "update the store")
	}
	return t.shared.ctx, func() {}, nil
}

// begin is the first line of every write.
func (t *tx) begin(ctx context.Context) (context.Context, error) {
	ctx, _, err := t.within(ctx)
	return ctx, err
}

// CreateRunner implements firerunner.Tx. That the ID is taken, or the address, is told by Update.
func (t *tx) CreateRunner(ctx context.Context, r firerunner.Runner) error {
	ctx, err := t.begin(ctx)
	if err != nil {
		return err
	}
	created := row.FromRunner(r)
	if err := t.pending.put(func(q *sqlc.Queries) error {
		return q.RunnerInsert(ctx, sqlc.RunnerInsertParams(created))
	}, "create runner %q", r.ID); err != nil {
		return err
	}
	t.pending.refusable, t.pending.runners = true, append(t.pending.runners, r.ID)
	t.known.keep(created.Runner())
	return nil
}

// SaveProject implements firerunner.Tx. Of two paths the one seen later wins.
func (t *tx) SaveProject(ctx context.Context, p firerunner.Project) error {
	ctx, err := t.begin(ctx)
	if err != nil {
		return err
	}
	t.pending.projects = true
	return t.pending.put(func(q *sqlc.Queries) error {
		return q.ProjectUpsert(ctx, sqlc.ProjectUpsertParams{ID: p.ID, Path: row.Text(p.Path), SeenAt: row.Micros(p.SeenAt)})
	}, "save project %d", p.ID)
}

// SaveHost implements firerunner.Tx.
func (t *tx) SaveHost(ctx context.Context, h firerunner.Host) error {
	ctx, err := t.begin(ctx)
	if err != nil {
		return err
	}
	t.pending.hosts = true
	return t.pending.put(func(q *sqlc.Queries) error {
		return q.HostUpsert(ctx, sqlc.HostUpsertParams(row.FromHost(h)))
	}, "save host %q", h.Name)
}

// RemoveHost implements firerunner.Tx. The database's own trigger keeps a host that has live runners.
func (t *tx) RemoveHost(ctx context.Context, name string) error {
	ctx, err := t.begin(ctx)
	if err != nil {
		return err
	}
	if err := t.flush(false); err != nil {
		return err
	}
	n, err := t.q.HostDelete(ctx, name)
	if err != nil {
		return wrap(err, "remove host %q", name)
	}
	if n == 0 {
		return firerunner.Errorf(firerunner.NotFound, "remove host %q: there is no such host", name)
	}
	return nil
}

// AddEvent implements firerunner.Tx.
func (t *tx) AddEvent(ctx context.Context, e firerunner.Event) error {
	if _, err := t.begin(ctx); err != nil {
		return err
	}
	t.pending.putEvent(e)
	return nil
}

const (
	deliveriesKept  = 24 * time.Hour // GitLab repeats a delivery within minutes, if at all
	purgeEvery      = 100            // deliveries
	purgeAtOnceMost = 1000           // rows, so that no delivery waits long for it
)

// TakeDelivery implements firerunner.Tx. Now and then it removes keys that are older than a day.
func (t *tx) TakeDelivery(ctx context.Context, key string, at time.Time) (fresh bool, err error) {
	ctx, err = t.begin(ctx)
	if err != nil {
		return false, err
	}
	n, err := t.q.DeliveryInsert(ctx, sqlc.DeliveryInsertParams{Key: row.Text(key), At: row.Micros(at)})
	if err != nil {
		return false, wrap(err, "write a delivery down")
	}
	if n == 0 {
		return false, nil
	}
	if t.store.deliveries.Add(1)%purgeEvery == 1 {
		before := row.Micros(t.store.config.Now().Add(-deliveriesKept))
		if err := t.q.DeliveriesPurge(ctx, sqlc.DeliveriesPurgeParams{Before: before, Most: purgeAtOnceMost}); err != nil {
			return false, wrap(err, "forget old deliveries")
		}
	}
	return true, nil
}

// Enqueue implements firerunner.Tx.
func (t *tx) Enqueue(ctx context.Context, s firerunner.Step) error {
	if _, err := t.begin(ctx); err != nil {
		return err
	}
	if t.store.config.Enqueue == nil {
		return firerunner.Errorf(firerunner.Unavailable, "enqueue step %s: this store was opened without a queue", s.Kind)
	}
	s.Tags = firerunner.TagSet(row.Text(string(s.Tags)))
	if t.shared.waits(s) {
		return nil
	}
	var batch pgx.Batch
	if err := t.store.config.Enqueue(&batch, s); err != nil {
		return wrap(err, "enqueue step %s", s.Kind)
	}
	t.pending.queries = append(t.pending.queries, batch.QueuedQueries...)
	t.pending.steps = append(t.pending.steps, s)
	if s.NotBefore.IsZero() {
		t.shared.enqueues = append(t.shared.enqueues, s)
	}
	return nil
}

var _ firerunner.Tx = (*tx)(nil)

func updateFromRow(r row.Runner) sqlc.RunnerUpdateParams {
	return sqlc.RunnerUpdateParams{
		ID: r.ID, ProjectID: r.ProjectID, Tags: r.Tags, Profile: r.Profile,
		VCPUs: r.VCPUs, MemoryMiB: r.MemoryMiB, DiskMiB: r.DiskMiB, Image: r.Image,
		State: r.State, Desired: r.Desired, Outcome: r.Outcome, Reason: r.Reason, Message: r.Message,
		Host: r.Host, GitLabID: r.GitLabID, JobID: r.JobID, Report: r.Report, Version: r.Version,
		CreatedAt: r.CreatedAt, MovedAt: r.MovedAt, Deadline: r.Deadline, Address: r.Address, JobKey: r.JobKey, Controller: r.Controller,
	}
}
