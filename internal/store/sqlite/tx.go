package sqlite

import (
	"context"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/baton"
	"github.com/firerunner/firerunner/internal/store/row"
	"github.com/firerunner/firerunner/internal/store/sqlite/sqlc"
)

// Update implements firerunner.Store. do runs in the caller's goroutine, one at a time; Updates that come together share
// a commit (package baton) and still fail one by one. do must be quick, must not wait for anything but its Tx, and must not
// call Update: the second would wait for the first until ctx ends.
func (s *Store) Update(ctx context.Context, do func(tx firerunner.Tx) error) error {
	return s.baton.Update(ctx, func(shared *transaction, told *baton.Told) error {
		t := &tx{store: s, shared: shared, told: told}
		t.reader = reader{q: sqlc.New(shared.Tx), within: t.within}
		defer func() { t.ended = true }()
		if err := do(t); err != nil {
			return err
		}
		return wrap(context.Cause(ctx), "update the store")
	})
}

// tx is one Update's part in a transaction: a firerunner.Tx.
type tx struct {
	reader
	store  *Store
	shared *transaction
	told   *baton.Told
	ended  bool
}

// within lets no statement be interrupted halfway: SQLite would roll back the whole transaction, and others share it.
// A context that has ended stops the next statement instead; a statement takes far less than a millisecond.
func (t *tx) within(ctx context.Context) (context.Context, error) {
	if t.ended {
		return nil, firerunner.Errorf(firerunner.Internal, "a transaction of the store was used after its end")
	}
	if err := context.Cause(ctx); err != nil {
		return nil, wrap(err, "update the store")
	}
	return context.WithoutCancel(ctx), nil
}

// CreateRunner implements firerunner.Tx.
func (t *tx) CreateRunner(ctx context.Context, r firerunner.Runner) error {
	ctx, err := t.within(ctx)
	if err != nil {
		return err
	}
	return wrap(t.q.RunnerInsert(ctx, sqlc.RunnerInsertParams(row.FromRunner(r))), "create runner %q", r.ID)
}

// SaveRunner implements firerunner.Tx. The database's own triggers keep state, outcome and desired from going back.
func (t *tx) SaveRunner(ctx context.Context, r *firerunner.Runner) error {
	known, err := t.Runner(ctx, r.ID)
	if err != nil {
		return err
	}
	if known.Version != r.Version {
		return firerunner.Errorf(firerunner.Conflict, "save runner %q: it was saved by another: version %d, not %d",
			r.ID, known.Version, r.Version)
	}
	ctx, err = t.within(ctx)
	if err != nil {
		return err
	}
	n, err := t.q.RunnerUpdate(ctx, updateFromRow(row.FromRunner(*r)))
	if err != nil {
		return wrap(err, "save runner %q", r.ID)
	}
	if n != 1 {
		return firerunner.Errorf(firerunner.Internal, "save runner %q: %d rows changed", r.ID, n)
	}
	r.Version++
	return nil
}

// SaveJob implements firerunner.Tx.
func (t *tx) SaveJob(ctx context.Context, seen firerunner.Job) (firerunner.Job, error) {
	known, err := t.Job(ctx, seen.ID)
	switch {
	case err == nil:
		seen = known.Merge(seen)
	case firerunner.CodeOf(err) != firerunner.NotFound:
		return firerunner.Job{}, err
	}
	ctx, err = t.within(ctx)
	if err != nil {
		return firerunner.Job{}, err
	}
	saved := row.FromJob(seen)
	if err := t.q.JobUpsert(ctx, sqlc.JobUpsertParams(saved)); err != nil {
		return firerunner.Job{}, wrap(err, "save job %d", seen.ID)
	}
	return saved.Job(), nil
}

// SaveProject implements firerunner.Tx. Of two paths the one seen later wins.
func (t *tx) SaveProject(ctx context.Context, p firerunner.Project) error {
	ctx, err := t.within(ctx)
	if err != nil {
		return err
	}
	err = t.q.ProjectUpsert(ctx, sqlc.ProjectUpsertParams{ID: p.ID, Path: row.Text(p.Path), SeenAt: row.Micros(p.SeenAt)})
	return wrap(err, "save project %d", p.ID)
}

// SaveHost implements firerunner.Tx.
func (t *tx) SaveHost(ctx context.Context, h firerunner.Host) error {
	ctx, err := t.within(ctx)
	if err != nil {
		return err
	}
	err = t.q.HostUpsert(ctx, sqlc.HostUpsertParams(row.FromHost(h)))
	return wrap(err, "save host %q", h.Name)
}

// RemoveHost implements firerunner.Tx. The database's own trigger keeps a host that has live runners.
func (t *tx) RemoveHost(ctx context.Context, name string) error {
	ctx, err := t.within(ctx)
	if err != nil {
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
	ctx, err := t.within(ctx)
	if err != nil {
		return err
	}
	id, err := t.q.EventInsert(ctx, insertFromEvent(row.FromEvent(e)))
	if err != nil {
		return wrap(err, "append event %s", e.Kind)
	}
	e.ID = id
	t.told.Events = append(t.told.Events, e)
	return nil
}

const (
	deliveriesKept  = 24 * time.Hour // GitLab repeats a delivery within minutes, if at all
	purgeEvery      = 100            // deliveries
	purgeAtOnceMost = 1000           // rows, so that no delivery waits long for it
)

// TakeDelivery implements firerunner.Tx. Now and then it removes keys that are older than a day.
func (t *tx) TakeDelivery(ctx context.Context, key string, at time.Time) (fresh bool, err error) {
	ctx, err = t.within(ctx)
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
	ctx, err := t.within(ctx)
	if err != nil {
		return err
	}
	if t.store.config.Enqueue == nil {
		return firerunner.Errorf(firerunner.Unavailable, "enqueue step %s: this store was opened without a queue", s.Kind)
	}
	if err := t.store.config.Enqueue(ctx, t.shared.Tx, s); err != nil {
		return wrap(err, "enqueue step %s", s.Kind)
	}
	t.told.Steps = append(t.told.Steps, s)
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

func insertFromEvent(e row.Event) sqlc.EventInsertParams {
	return sqlc.EventInsertParams{
		At: e.At, Kind: e.Kind, RunnerID: e.RunnerID, JobID: e.JobID, ProjectID: e.ProjectID, FromState: e.FromState,
		ToState: e.ToState, Took: e.Took, Actor: e.Actor, Reason: e.Reason, Message: e.Message,
	}
}
