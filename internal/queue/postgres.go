package queue

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/firerunner/firerunner"
)

// postgresDriver is River's own for PostgreSQL, except for how news gets about. LISTEN and NOTIFY would cost a statement in
// each transaction and a lock at each commit, and River sends no more than one in 10 ms, before the commit: the step of the
// next transaction would wait for the poll. Here the process that enqueues rings its own bell after the commit; another
// process finds what this one has no room for when it polls (fetchPoll).
type postgresDriver struct {
	*riverpgxv5.Driver
	bell *bell
}

func newPostgresDriver(pool *pgxpool.Pool, b *bell) *postgresDriver {
	return &postgresDriver{Driver: riverpgxv5.New(pool), bell: b}
}

// SupportsListenNotify is false: no news are sent.
func (d *postgresDriver) SupportsListenNotify() bool { return false }

// GetListener returns the listener that hears the bell.
func (d *postgresDriver) GetListener(params *riverdriver.GetListenenerParams) riverdriver.Listener {
	return &listener{bell: d.bell, schema: params.Schema}
}

var _ riverdriver.Driver[pgx.Tx] = (*postgresDriver)(nil)

// postgresWaitingIndex finds a step that waits. It is a hash, because a step may be longer than an entry of the other kind
// of index.
const postgresWaitingIndex = `CREATE INDEX IF NOT EXISTS firerunner_waiting_steps ON river_job USING hash (args) WHERE state = 'available'`

// postgresUnusedIndexes are those that River makes for questions that nobody asks here: what a job has in its arguments or its
// metadata, and which are of a kind. They took about a seventh of the server's time.
func postgresUnusedIndexes() []string {
	return []string{"river_job_args_index", "river_job_kind", "river_job_metadata_index"}
}

// postgresReindexed are the indexes that River builds anew each night.
func postgresReindexed() []string {
	return slices.DeleteFunc(river.ReindexerIndexNamesDefault(), func(name string) bool {
		return slices.Contains(postgresUnusedIndexes(), name)
	})
}

// MigratePostgres brings the queue's tables up to date. It is for postgres.Config.Migrate, whose lock it needs: two
// processes that migrate at once both fail.
func MigratePostgres(ctx context.Context, pool *pgxpool.Pool) error {
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return firerunner.Errorf(firerunner.Internal, "migrate the queue: %w", err)
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "migrate the queue: %w", err)
	}
	if _, err := pool.Exec(ctx, postgresWaitingIndex); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "migrate the queue: index the steps that wait: %w", err)
	}
	if _, err := pool.Exec(ctx, "DROP INDEX IF EXISTS "+strings.Join(postgresUnusedIndexes(), ", ")); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "migrate the queue: drop indexes that nothing asks for: %w", err)
	}
	return nil
}

// postgresEnqueue adds a step unless the same waits already, in one statement. River begins a step without the lock for
// writing, in any process, and one that began before the transaction commits would not see what it wrote. So the step that is
// found is locked until then: River passes over locked rows. One that River has locked, to begin it, is passed over here.
//
// It inserts as River's own clients in other languages do; what is left out has a default.
const postgresEnqueue = `WITH waits AS (
	SELECT 1 FROM river_job
	WHERE kind = $1 AND args = $2::jsonb AND state = 'available' AND scheduled_at >= $3 AND scheduled_at <= $4
	LIMIT 1 FOR UPDATE SKIP LOCKED
) INSERT INTO river_job (kind, args, scheduled_at, max_attempts, queue) SELECT $1, $2::jsonb, $5, $6, $7 WHERE NOT EXISTS (SELECT 1 FROM waits)`

// EnqueuePostgres adds to the batch what adds the step, for the transaction that the batch is sent in. A step that would do
// the same at about the same time as one that waits already is not added. It fails with Invalid for an unknown kind.
func (e *Enqueuer) EnqueuePostgres(batch *pgx.Batch, step firerunner.Step) error {
	if !known(step.Kind) {
		return firerunner.Errorf(firerunner.Invalid, "enqueue: there is no step %q", step.Kind)
	}
	text, err := json.Marshal(args{step})
	if err != nil {
		return firerunner.Errorf(firerunner.Internal, "enqueue step %s: %w", step.Kind, err)
	}
	now := e.now()
	due, from, to := now, time.Time{}, now.Add(time.Millisecond)
	if !step.NotBefore.IsZero() {
		due, from, to = step.NotBefore, step.NotBefore.Add(-time.Microsecond), step.NotBefore.Add(mergeWithin)
	}
	batch.Queue(postgresEnqueue, string(step.Kind), string(text), from, to, due, maxAttempts, controllerQueue(step.Controller))
	return nil
}

// EnqueueInPostgres adds a step within tx; it is due when tx commits.
func (e *Enqueuer) EnqueueInPostgres(ctx context.Context, tx pgx.Tx, step firerunner.Step) error {
	var batch pgx.Batch
	if err := e.EnqueuePostgres(&batch, step); err != nil {
		return err
	}
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "enqueue step %s: %w", step.Kind, err)
	}
	return nil
}

// inPostgres is River on PostgreSQL.
type inPostgres struct {
	*river.Client[pgx.Tx]
	pool *pgxpool.Pool
}

func (e inPostgres) takeBack(ctx context.Context, from taker) (taken int64, err error) {
	err = pgx.BeginFunc(ctx, e.pool, func(tx pgx.Tx) error {
		// The last of attempted_by is who runs it.
		tag, err := tx.Exec(ctx, `UPDATE river_job SET state = 'available', attempt = greatest(attempt - 1, 0)
			WHERE state = 'running' AND ($1 OR attempted_by[array_upper(attempted_by, 1)] = $2)`, from.all, riverID(from.controller))
		if err != nil {
			return err
		}
		taken = tag.RowsAffected()
		_, err = tx.Exec(ctx, `DELETE FROM river_leader WHERE $1 OR leader_id = $2`, from.all, riverID(from.controller))
		return err
	})
	return taken, err
}

func (e inPostgres) running(ctx context.Context, after time.Duration) ([]int64, error) {
	rows, err := e.pool.Query(ctx, `SELECT id FROM river_job WHERE state = 'running'
		AND attempted_by[array_upper(attempted_by, 1)] = $1 AND attempted_at < now() - make_interval(secs => $2)`, e.ID(), after.Seconds())
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

func (e inPostgres) again(ctx context.Context, ids []int64) error {
	_, err := e.pool.Exec(ctx, `UPDATE river_job SET state = 'available', attempt = greatest(attempt - 1, 0)
		WHERE state = 'running' AND id = ANY($1)`, ids)
	return err
}

func (e inPostgres) count(ctx context.Context, add func(kind firerunner.StepKind, n int)) error {
	rows, err := e.pool.Query(ctx, `SELECT kind, count(*) FROM river_job
		WHERE state IN ('available', 'running', 'retryable', 'scheduled', 'pending') GROUP BY kind`)
	if err != nil {
		return err
	}
	var kind string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&kind, &n}, func() error {
		add(firerunner.StepKind(kind), n)
		return nil
	})
	return err
}

func (e inPostgres) ping(ctx context.Context) error {
	var n int
	return e.pool.QueryRow(ctx, `SELECT count(*) FROM (SELECT 1 FROM river_job LIMIT 1) AS first`).Scan(&n)
}

// PendingInPostgres is Pending for PostgreSQL.
func PendingInPostgres(ctx context.Context, tx pgx.Tx, each func(firerunner.Step) error) error {
	rows, err := tx.Query(ctx, `SELECT args::text, CASE WHEN state = 'running' THEN now() ELSE scheduled_at END
		FROM river_job WHERE state IN ('available', 'running', 'retryable', 'scheduled', 'pending') ORDER BY id`)
	if err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "read the steps: %w", err)
	}
	var text string
	var due time.Time
	if _, err := pgx.ForEachRow(rows, []any{&text, &due}, func() error { return pending(text, due, each) }); err != nil {
		return firerunner.Errorf(firerunner.CodeOf(err), "read the steps: %w", err)
	}
	return nil
}
