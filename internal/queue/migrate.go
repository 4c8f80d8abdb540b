package queue

import (
	"context"
	"database/sql"
	"log/slog"

	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/firerunner/firerunner"
)

// waitingIndex finds a step that waits (Enqueuer.waits). River rebuilds its table in some migrations and knows nothing of
// this index, so it is made again after each, if it is gone.
const waitingIndex = `CREATE INDEX IF NOT EXISTS firerunner_waiting_steps ON river_job (kind, args) WHERE state = 'available'`

// Migrate brings the queue's tables up to date. It is for sqlite.Config.Migrate, whose lock it needs: two processes that
// migrate at once both fail.
func Migrate(ctx context.Context, db *sql.DB) error {
	migrator, err := rivermigrate.New(riversqlite.New(db), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return firerunner.Errorf(firerunner.Internal, "migrate the queue: %w", err)
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "migrate the queue: %w", err)
	}
	if _, err := db.ExecContext(ctx, waitingIndex); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "migrate the queue: index the steps that wait: %w", err)
	}
	return nil
}
