package queue

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/riverqueue/river"

	"github.com/firerunner/firerunner"
)

// inSQLite is River on SQLite.
type inSQLite struct {
	*river.Client[*sql.Tx]
	db *sql.DB
}

// takeBack takes everything back: one process serves a file (sqlite.Hold).
func (e inSQLite) takeBack(ctx context.Context, from taker) (taken int64, err error) {
	if !from.all {
		return 0, nil
	}
	tx, err := e.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback() }()
	res, err := tx.ExecContext(ctx, `UPDATE river_job SET state = 'available', attempt = max(attempt - 1, 0) WHERE state = 'running'`)
	if err != nil {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM river_leader`); err != nil {
		return 0, err
	}
	if taken, err = res.RowsAffected(); err != nil {
		return 0, err
	}
	return taken, tx.Commit()
}

// running looks at all: one process runs the steps of a file.
func (e inSQLite) running(ctx context.Context, after time.Duration) (ids []int64, err error) {
	rows, err := e.db.QueryContext(ctx, `SELECT id FROM river_job WHERE state = 'running' AND attempted_at < ?`, riverTime(time.Now().Add(-after)))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

func (e inSQLite) again(ctx context.Context, ids []int64) error {
	for _, id := range ids {
		_, err := e.db.ExecContext(ctx, `UPDATE river_job SET state = 'available', attempt = max(attempt - 1, 0) WHERE state = 'running' AND id = ?`, id)
		if err != nil {
			return err
		}
	}
	return nil
}

func (e inSQLite) count(ctx context.Context, add func(kind firerunner.StepKind, n int)) (err error) {
	rows, err := e.db.QueryContext(ctx, `SELECT kind, count(*) FROM river_job
		WHERE state IN ('available', 'running', 'retryable', 'scheduled', 'pending') GROUP BY kind`)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var kind firerunner.StepKind
		var n int
		if err := rows.Scan(&kind, &n); err != nil {
			return err
		}
		add(kind, n)
	}
	return rows.Err()
}

func (e inSQLite) ping(ctx context.Context) error {
	var n int
	return e.db.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM river_job LIMIT 1)`).Scan(&n)
}

// Pending calls each with every step that is not done, in the order of enqueueing, with NotBefore; one that runs counts as
// due. It is how steps move to another database: enqueued there, they do what they would have done here.
func Pending(ctx context.Context, tx *sql.Tx, each func(firerunner.Step) error) (err error) {
	defer func() {
		if err != nil {
			err = firerunner.Errorf(firerunner.CodeOf(err), "read the steps: %w", err)
		}
	}()
	rows, err := tx.QueryContext(ctx, `SELECT json(args), CASE WHEN state = 'running' THEN '' ELSE CAST(scheduled_at AS TEXT) END
		FROM river_job WHERE state IN ('available', 'running', 'retryable', 'scheduled', 'pending') ORDER BY id`)
	if err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "%w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var text, due string
		if err := rows.Scan(&text, &due); err != nil {
			return err
		}
		at, err := time.Parse(time.DateTime, due) // takes fractions of a second too
		if err != nil && due != "" {
			return firerunner.Errorf(firerunner.Internal, "a step is due at %.40q: %w", due, err)
		}
		if err := pending(text, at, each); err != nil {
			return err
		}
	}
	return rows.Err()
}

// pending reads one step as River keeps it.
func pending(text string, due time.Time, each func(firerunner.Step) error) error {
	var step firerunner.Step
	if err := json.Unmarshal([]byte(text), &step); err != nil {
		return firerunner.Errorf(firerunner.Internal, "a step is not one: %w", err)
	}
	step.NotBefore = due.UTC()
	return each(step)
}
