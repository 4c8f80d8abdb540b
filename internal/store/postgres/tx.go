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
	return s.baton.Update(ctx, func(shared *transaction, told *baton.Told) error {
		t := &tx{store: s, shared: shared, told: told}
		t.reader = reader{q: sqlc.New(shared.Tx), within: t.within, inTx: true}
		defer func() { t.ended = true }()
		if err := do(t); err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return wrap(err, "update the store")
		}
		return t.flush(true)
	})
}

// tx is one Update's part in a transaction: a firerunner.Tx.
type tx struct {
	reader
	store  *Store
	shared *transaction
	told   *baton.Told
	ended  bool

	// Nobody asks for the answers of these, so they are sent together, at the end or before somebody reads events.
	events []firerunner.Event
	steps  []firerunner.Step
	batch  pgx.Batch // what adds the steps
}

// flush sends what was put off, in one round trip. last: nothing of this member comes after it.
func (t *tx) flush(last bool) error {
	if len(t.events) == 0 && t.batch.Len() == 0 {
		return nil
	}
	batch := t.batch
	t.batch = pgx.Batch{}
	ids := make([]int64, 0, len(t.events))
	if len(t.events) > 0 {
		batch.Queue(eventsInsert, eventColumns(t.events)...).Query(func(rows pgx.Rows) error {
			var err error
			ids, err = pgx.AppendRows(ids, rows, pgx.RowTo[int64])
			return err
		})
	}
	if last {
		for _, s := range enterQueries {
			batch.Queue(s)
		}
	}
	if err := t.shared.SendBatch(t.shared.ctx, &batch).Close(); err != nil {
		return wrap(err, "append events and steps")
	}
	t.shared.entered = last
	if len(ids) != len(t.events) {
		return firerunner.Errorf(firerunner.Internal, "append events: %d of %d are there", len(ids), len(t.events))
	}
	for i, e := range t.events {
		e.ID = ids[i]
		t.told.Events = append(t.told.Events, e)
	}
	t.told.Steps = append(t.told.Steps, t.steps...)
	t.events, t.steps = nil, nil
	return nil
}

// Events implements firerunner.Reader.
func (t *tx) Events(ctx context.Context, q firerunner.EventQuery) ([]firerunner.Event, error) {
	if _, err := t.begin(ctx); err != nil {
		return nil, err
	}
	if err := t.flush(false); err != nil {
		return nil, err
	}
	return t.reader.Events(ctx, q)
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

// CreateRunner implements firerunner.Tx.
func (t *tx) CreateRunner(ctx context.Context, r firerunner.Runner) error {
	ctx, err := t.begin(ctx)
	if err != nil {
		return err
	}
	n, err := t.q.RunnerInsert(ctx, sqlc.RunnerInsertParams(row.FromRunner(r)))
	if err != nil {
		return wrap(err, "create runner %q", r.ID)
	}
	if n != 1 {
		return firerunner.Errorf(firerunner.Conflict, "create runner %q: its ID, or its address on host %q, is taken", r.ID, r.Host)
	}
	return nil
}

// SaveRunner implements firerunner.Tx. The database's own triggers keep state, outcome and desired from going back.
func (t *tx) SaveRunner(ctx context.Context, r *firerunner.Runner) error {
	ctx, err := t.begin(ctx)
	if err != nil {
		return err
	}
	n, err := t.q.RunnerUpdate(ctx, updateFromRow(row.FromRunner(*r)))
	if err != nil {
		return wrap(err, "save runner %q", r.ID)
	}
	if n == 1 {
		r.Version++
		return nil
	}
	known, err := t.Runner(ctx, r.ID)
	if err != nil {
		return err
	}
	return firerunner.Errorf(firerunner.Conflict, "save runner %q: it was saved by another: version %d, not %d",
		r.ID, known.Version, r.Version)
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
	ctx, err = t.begin(ctx)
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
	ctx, err := t.begin(ctx)
	if err != nil {
		return err
	}
	err = t.q.ProjectUpsert(ctx, sqlc.ProjectUpsertParams{ID: p.ID, Path: row.Text(p.Path), SeenAt: row.Micros(p.SeenAt)})
	return wrap(err, "save project %d", p.ID)
}

// SaveHost implements firerunner.Tx.
func (t *tx) SaveHost(ctx context.Context, h firerunner.Host) error {
	ctx, err := t.begin(ctx)
	if err != nil {
		return err
	}
	err = t.q.HostUpsert(ctx, sqlc.HostUpsertParams(row.FromHost(h)))
	return wrap(err, "save host %q", h.Name)
}

// RemoveHost implements firerunner.Tx. The database's own trigger keeps a host that has live runners.
func (t *tx) RemoveHost(ctx context.Context, name string) error {
	ctx, err := t.begin(ctx)
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
	if _, err := t.begin(ctx); err != nil {
		return err
	}
	t.events = append(t.events, e)
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
	if err := t.store.config.Enqueue(&t.batch, s); err != nil {
		return wrap(err, "enqueue step %s", s.Kind)
	}
	t.steps = append(t.steps, s)
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

// eventsInsert appends any number of events, numbered in their order.
const eventsInsert = `INSERT INTO events (at, kind, runner_id, job_id, project_id, from_state, to_state, took, actor, reason, message)
SELECT at, kind, runner_id, job_id, project_id, from_state, to_state, took, actor, reason, message
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::text[],
	$10::text[], $11::text[]) WITH ORDINALITY
	AS e (at, kind, runner_id, job_id, project_id, from_state, to_state, took, actor, reason, message, place)
ORDER BY place RETURNING id`

func eventColumns(events []firerunner.Event) []any {
	rows := row.Each(events, row.FromEvent)
	number := func(of func(row.Event) int64) []int64 { return row.Each(rows, of) }
	word := func(of func(row.Event) string) []string { return row.Each(rows, of) }
	return []any{
		number(func(e row.Event) int64 { return e.At }),
		word(func(e row.Event) string { return e.Kind }),
		word(func(e row.Event) string { return e.RunnerID }),
		number(func(e row.Event) int64 { return e.JobID }),
		number(func(e row.Event) int64 { return e.ProjectID }),
		number(func(e row.Event) int64 { return e.FromState }),
		number(func(e row.Event) int64 { return e.ToState }),
		number(func(e row.Event) int64 { return e.Took }),
		word(func(e row.Event) string { return e.Actor }),
		word(func(e row.Event) string { return e.Reason }),
		word(func(e row.Event) string { return e.Message }),
	}
}
