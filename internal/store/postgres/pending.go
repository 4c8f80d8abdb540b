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

// pending is what was written and the server has not been told: a round trip takes longer than most statements, and whoever
// has the lock of writers knows what will come of them. A member has its own; when it ends well, those who share the
// transaction have it together, until somebody asks for what they may have changed, or they commit.
type pending struct {
	queries []*pgx.QueuedQuery
	events  []firerunner.Event
	ids     []*int64          // of events, once they are sent
	steps   []firerunner.Step // enqueued by the queries
	saves   int64             // of rows that were there

	refusable bool // the database may refuse some of it

	runners               []string // that it is about
	jobs, hosts, projects bool     // some of it is about these
}

func (p *pending) none() bool { return len(p.queries) == 0 }

// add takes over what another has.
func (p *pending) add(more pending) {
	p.queries = append(p.queries, more.queries...)
	p.events, p.ids = append(p.events, more.events...), append(p.ids, more.ids...)
	p.steps = append(p.steps, more.steps...)
	p.saves += more.saves
	p.refusable = p.refusable || more.refusable
	p.runners, p.jobs = append(p.runners, more.runners...), p.jobs || more.jobs
	p.hosts, p.projects = p.hosts || more.hosts, p.projects || more.projects
}

// put adds the one statement that write makes. What its answer is wrapped in says what we were doing; it must change one row.
func (p *pending) put(write func(q *sqlc.Queries) error, doing string, args ...any) error {
	var d deferred
	if err := write(sqlc.New(&d)); err != nil && !errors.Is(err, errDeferred) {
		return wrap(err, doing, args...)
	}
	query := d.batch.QueuedQueries[0]
	query.Fn = func(results pgx.BatchResults) error {
		tag, err := results.Exec()
		if n := tag.RowsAffected(); err == nil && n != 1 {
			err = firerunner.Errorf(firerunner.Internal, "%d rows changed: somebody wrote without the lock of writers", n)
		}
		return wrap(err, doing, args...)
	}
	p.queries = append(p.queries, query)
	return nil
}

// putEvent adds an event.
func (p *pending) putEvent(e firerunner.Event) {
	var d deferred
	_, _ = sqlc.New(&d).EventInsert(context.Background(), eventToRow(row.FromEvent(e)))
	query, id := d.batch.QueuedQueries[0], new(int64)
	query.Fn = func(results pgx.BatchResults) error { return wrap(results.QueryRow().Scan(id), "append an event") }
	p.queries = append(p.queries, query)
	p.events, p.ids = append(p.events, e), append(p.ids, id)
}

func eventToRow(e row.Event) sqlc.EventInsertParams {
	return sqlc.EventInsertParams{
		At: e.At, Kind: e.Kind, RunnerID: e.RunnerID, JobID: e.JobID, ProjectID: e.ProjectID, FromState: e.FromState,
		ToState: e.ToState, Took: e.Took, Actor: e.Actor, Reason: e.Reason, Message: e.Message,
	}
}

// direct is a database for sqlc whose answers are asked for now, in a member's part of a transaction.
type direct struct{ *transaction }

// Exec implements sqlc.DBTX.
func (d direct) Exec(_ context.Context, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	var batch pgx.Batch
	batch.Queue(sql, args...).Exec(func(done pgconn.CommandTag) error {
		tag = done
		return nil
	})
	err = d.send(true, batch.QueuedQueries, false)
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
type deferred struct{ batch pgx.Batch }

var errDeferred = errors.New("the answer of a statement that is put off comes later")

// Exec implements sqlc.DBTX.
func (d *deferred) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	d.batch.Queue(sql, args...)
	return pgconn.CommandTag{}, nil
}

// Query implements sqlc.DBTX. No statement that returns several rows is put off.
func (d *deferred) Query(context.Context, string, ...any) (pgx.Rows, error) { return nil, errDeferred }

// QueryRow implements sqlc.DBTX. Its Scan fails with errDeferred.
func (d *deferred) QueryRow(_ context.Context, sql string, args ...any) pgx.Row {
	d.batch.Queue(sql, args...)
	return noRow{}
}

type noRow struct{}

func (noRow) Scan(...any) error { return errDeferred }
