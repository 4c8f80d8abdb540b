package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/postgres/sqlc"
	"github.com/firerunner/firerunner/internal/store/row"
)

// pending is what a member wrote and the server has not been told: a round trip takes longer than most statements, and
// whoever has the lock of writers knows what will come of them. All of it is sent together, at the member's end or before it
// asks for something that it may have changed.
type pending struct {
	batch  pgx.Batch
	events []firerunner.Event
	steps  []firerunner.Step // enqueued by the batch
	saves  int64             // of rows that were there

	refusable bool // the database may refuse some of it

	runners, jobs, hosts, projects bool // some of it is about these
}

// put adds the one statement that write makes to the batch. What its answer is wrapped in says what we were doing; rows is how
// many it must change, if not 0.
func (p *pending) put(rows int64, write func(q *sqlc.Queries) error, doing string, args ...any) error {
	d := &deferred{batch: &p.batch}
	if err := write(sqlc.New(d)); err != nil {
		return wrap(err, doing, args...)
	}
	d.last.Fn = func(results pgx.BatchResults) error {
		tag, err := results.Exec()
		if n := tag.RowsAffected(); err == nil && rows != 0 && n != rows {
			err = firerunner.Errorf(firerunner.Internal, "%d rows changed: somebody wrote without the lock of writers", n)
		}
		return wrap(err, doing, args...)
	}
	return nil
}

// putEvent adds an event to the batch; id is its number once the batch was sent.
func (p *pending) putEvent(e firerunner.Event, id *int64) error {
	d := &deferred{batch: &p.batch}
	_, err := sqlc.New(d).EventInsert(context.Background(), eventToRow(row.FromEvent(e)))
	if !errors.Is(err, errDeferred) {
		return wrap(err, "append an event")
	}
	d.last.Fn = func(results pgx.BatchResults) error { return wrap(results.QueryRow().Scan(id), "append an event") }
	return nil
}

func eventToRow(e row.Event) sqlc.EventInsertParams {
	return sqlc.EventInsertParams{
		At: e.At, Kind: e.Kind, RunnerID: e.RunnerID, JobID: e.JobID, ProjectID: e.ProjectID, FromState: e.FromState,
		ToState: e.ToState, Took: e.Took, Actor: e.Actor, Reason: e.Reason, Message: e.Message,
	}
}

func (p *pending) none() bool { return len(p.events) == 0 && p.batch.Len() == 0 }

// direct is a database for sqlc whose answers are asked for now, in a member's part of a transaction.
type direct struct{ *transaction }

// Exec implements sqlc.DBTX.
func (d direct) Exec(_ context.Context, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	var batch pgx.Batch
	batch.Queue(sql, args...).Exec(func(done pgconn.CommandTag) error {
		tag = done
		return nil
	})
	err = d.send(&batch, true)
	return tag, err
}

// Query implements sqlc.DBTX. It is for questions.
func (d direct) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return d.conn.Query(ctx, sql, args...)
}

// QueryRow implements sqlc.DBTX. It is for questions.
func (d direct) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return d.conn.QueryRow(ctx, sql, args...)
}

// deferred is a database for sqlc whose answers come later.
type deferred struct {
	batch *pgx.Batch
	last  *pgx.QueuedQuery
}

var errDeferred = errors.New("a query that is put off cannot be answered")

// Exec implements sqlc.DBTX.
func (d *deferred) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	d.last = d.batch.Queue(sql, args...)
	return pgconn.CommandTag{}, nil
}

// Query implements sqlc.DBTX.
func (d *deferred) Query(context.Context, string, ...any) (pgx.Rows, error) { return nil, errDeferred }

// QueryRow implements sqlc.DBTX. Its Scan fails with errDeferred.
func (d *deferred) QueryRow(_ context.Context, sql string, args ...any) pgx.Row {
	d.last = d.batch.Queue(sql, args...)
	return noRow{}
}

type noRow struct{}

func (noRow) Scan(...any) error { return errDeferred }

// flushFor sends what is pending where some of it is about what is going to be asked.
func (t *tx) flushFor(ctx context.Context, about bool) error {
	if _, _, err := t.within(ctx); err != nil || !about {
		return err
	}
	return t.flush(false)
}

// flush sends what is pending, in one round trip. last: nothing of this member comes after it.
func (t *tx) flush(last bool) error {
	if t.pending.none() {
		return nil
	}
	now := t.pending
	t.pending = pending{}
	ids := make([]int64, len(now.events))
	for i, e := range now.events {
		if err := now.putEvent(e, &ids[i]); err != nil {
			return err
		}
	}
	mark := !last || now.refusable || t.store.config.Now().Before(t.store.carefulUntil)
	release := last && (mark || t.shared.marked)
	if release {
		now.batch.Queue(releaseQuery)
	}
	err := t.shared.send(&now.batch, mark)
	t.store.memory.saved(now.saves)
	if err != nil {
		t.store.memory.forget()
		if last && t.shared.conn.Conn().PgConn().TxStatus() == 'T' { // no statement failed, and the savepoint is released
			t.shared.spoil(err)
		}
		return wrap(err, "write to the database")
	}
	t.shared.marked = t.shared.marked && !release
	for i, e := range now.events {
		e.ID = ids[i]
		t.told.Events = append(t.told.Events, e)
	}
	t.told.Steps = append(t.told.Steps, now.steps...)
	return nil
}
