package sqlite

import (
	"context"
	"errors"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/sqlite/sqlc"
)

// Update implements firerunner.Store. do runs in the caller's goroutine, one at a time; Updates that come together share
// a commit (see writer) and still fail one by one. do must be quick, must not wait for anything but its Tx, and must not
// call Update: the second would wait for the first until ctx ends.
func (s *Store) Update(ctx context.Context, do func(tx firerunner.Tx) error) error {
	g, err := s.writer.enter(ctx)
	if err != nil {
		if errors.Is(err, errClosed) {
			return firerunner.Errorf(firerunner.Unavailable, "update the store: %w", err)
		}
		return wrap(err, "wait to update the store")
	}
	if err := s.attempt(ctx, g, do); err != nil {
		return err
	}
	<-g.done // not given up with ctx: the answer would be "perhaps"
	return wrap(g.err, "commit")
}

// attempt runs do within a savepoint. Its deferred part also runs when do panics or ends the goroutine: then nothing of
// it is kept, and the others go on.
func (s *Store) attempt(ctx context.Context, g *group, do func(tx firerunner.Tx) error) error {
	t := &tx{store: s, group: g}
	t.reader = reader{q: sqlc.New(g.tx), within: t.within}
	var broken error
	entered, kept := false, false
	defer func() {
		t.ended = true
		if entered && !kept && broken == nil {
			broken = savepoint(g, "ROLLBACK TO member", "RELEASE member")
		}
		s.writer.leave(broken)
	}()
	if broken = savepoint(g, "SAVEPOINT member"); broken != nil {
		return wrap(broken, "begin to update the store")
	}
	entered = true
	if err := do(t); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return wrap(err, "update the store")
	}
	if broken = savepoint(g, "RELEASE member"); broken != nil {
		return wrap(broken, "update the store")
	}
	kept = true
	g.events = append(g.events, t.events...)
	g.steps = append(g.steps, t.steps...)
	return nil
}

// savepoint fails only where SQLite gave the whole transaction up by itself, such as when the disk is full
// (https://sqlite.org/lang_transaction.html#response_to_errors_within_a_transaction).
func savepoint(g *group, statements ...string) error {
	for _, s := range statements {
		if _, err := g.tx.ExecContext(context.Background(), s); err != nil {
			return err
		}
	}
	return nil
}

// tx is one Update's part in a group: a firerunner.Tx.
type tx struct {
	reader
	store  *Store
	group  *group
	events []firerunner.Event
	steps  []firerunner.Step
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
	return wrap(t.q.RunnerInsert(ctx, sqlc.RunnerInsertParams(rowFromRunner(r))), "create runner %q", r.ID)
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
	n, err := t.q.RunnerUpdate(ctx, updateFromRow(rowFromRunner(*r)))
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
	row := rowFromJob(seen)
	if err := t.q.JobUpsert(ctx, sqlc.JobUpsertParams(row)); err != nil {
		return firerunner.Job{}, wrap(err, "save job %d", seen.ID)
	}
	return jobFromRow(row), nil
}

// SaveProject implements firerunner.Tx. Of two paths the one seen later wins.
func (t *tx) SaveProject(ctx context.Context, p firerunner.Project) error {
	ctx, err := t.within(ctx)
	if err != nil {
		return err
	}
	err = t.q.ProjectUpsert(ctx, sqlc.ProjectUpsertParams{ID: p.ID, Path: p.Path, SeenAt: micros(p.SeenAt)})
	return wrap(err, "save project %d", p.ID)
}

// SaveHost implements firerunner.Tx.
func (t *tx) SaveHost(ctx context.Context, h firerunner.Host) error {
	ctx, err := t.within(ctx)
	if err != nil {
		return err
	}
	err = t.q.HostUpsert(ctx, sqlc.HostUpsertParams(rowFromHost(h)))
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
	id, err := t.q.EventInsert(ctx, insertFromEvent(e))
	if err != nil {
		return wrap(err, "append event %s", e.Kind)
	}
	e.ID = id
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
	ctx, err = t.within(ctx)
	if err != nil {
		return false, err
	}
	n, err := t.q.DeliveryInsert(ctx, sqlc.DeliveryInsertParams{Key: key, At: micros(at)})
	if err != nil {
		return false, wrap(err, "write a delivery down")
	}
	if n == 0 {
		return false, nil
	}
	if t.store.deliveries.Add(1)%purgeEvery == 1 {
		before := micros(t.store.config.Now().Add(-deliveriesKept))
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
	if err := t.store.config.Enqueue(ctx, t.group.tx, s); err != nil {
		return wrap(err, "enqueue step %s", s.Kind)
	}
	t.steps = append(t.steps, s)
	return nil
}

var _ firerunner.Tx = (*tx)(nil)
