package archive

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/firerunner/firerunner"
)

// Queue is what the queue does in a transaction of an engine.
type Queue[Tx any] struct {
	Pending func(ctx context.Context, tx Tx, each func(firerunner.Step) error) error
	Enqueue func(ctx context.Context, tx Tx, step firerunner.Step) error
}

// SQLite is a Site in a transaction of SQLite.
func SQLite(tx *sql.Tx, queue Queue[*sql.Tx]) Site { return inSQLite{tx, queue} }

// Postgres is a Site in a transaction of PostgreSQL.
func Postgres(tx pgx.Tx, queue Queue[pgx.Tx]) Site { return inPostgres{tx, queue} }

type inSQLite struct {
	tx    *sql.Tx
	queue Queue[*sql.Tx]
}

func (inSQLite) Engine() string         { return "sqlite" }
func (inSQLite) Parameter(n int) string { return fmt.Sprint("?", n) }

func (s inSQLite) Query(ctx context.Context, statement string, columns func([]string) error, each func([]any) error) error {
	rows, err := s.tx.QueryContext(ctx, statement)
	if err != nil {
		return unavailable(err)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return unavailable(err)
	}
	if err := columns(names); err != nil {
		return err
	}
	values, to := make([]any, len(names)), make([]any, len(names))
	for i := range values {
		to[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(to...); err != nil {
			return unavailable(err)
		}
		if err := each(values); err != nil {
			return err
		}
	}
	return unavailable(rows.Err())
}

func (s inSQLite) Exec(ctx context.Context, statement string, args ...any) error {
	_, err := s.tx.ExecContext(ctx, statement, args...)
	return unavailable(err)
}

func (s inSQLite) Steps(ctx context.Context, each func(firerunner.Step) error) error {
	return s.queue.Pending(ctx, s.tx, each)
}

func (s inSQLite) Enqueue(ctx context.Context, step firerunner.Step) error {
	return s.queue.Enqueue(ctx, s.tx, step)
}

// Filled has nothing to do: SQLite counts on from the greatest number that it has seen.
func (inSQLite) Filled(context.Context) error { return nil }

type inPostgres struct {
	tx    pgx.Tx
	queue Queue[pgx.Tx]
}

func (inPostgres) Engine() string         { return "postgres" }
func (inPostgres) Parameter(n int) string { return fmt.Sprint("$", n) }

func (s inPostgres) Query(ctx context.Context, statement string, columns func([]string) error, each func([]any) error) error {
	rows, err := s.tx.Query(ctx, statement)
	if err != nil {
		return unavailable(err)
	}
	defer rows.Close()
	var names []string
	for _, f := range rows.FieldDescriptions() {
		names = append(names, f.Name)
	}
	if err := columns(names); err != nil {
		return err
	}
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return unavailable(err)
		}
		if err := each(values); err != nil {
			return err
		}
	}
	return unavailable(rows.Err())
}

func (s inPostgres) Exec(ctx context.Context, statement string, args ...any) error {
	_, err := s.tx.Exec(ctx, statement, args...)
	return unavailable(err)
}

func (s inPostgres) Steps(ctx context.Context, each func(firerunner.Step) error) error {
	return s.queue.Pending(ctx, s.tx, each)
}

func (s inPostgres) Enqueue(ctx context.Context, step firerunner.Step) error {
	return s.queue.Enqueue(ctx, s.tx, step)
}

// Filled lets events be numbered on from the last.
func (s inPostgres) Filled(ctx context.Context) error {
	return s.Exec(ctx, `SELECT setval(pg_get_serial_sequence('events', 'id'), greatest(max(id), 1), max(id) IS NOT NULL) FROM events`)
}

func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return firerunner.Errorf(firerunner.Unavailable, "ask the database: %w", err)
}
