package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"io/fs"
	"log/slog"

	"github.com/pressly/goose/v3"

	"github.com/firerunner/firerunner"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the file up to date. Two processes that migrate one new file at once both die on "table exists" or
// "database is locked", so one file lock stands around all of it: the change to WAL, our tables, the queue's tables.
// The lock is not the database's own because the queue's migrations bring transactions of their own.
func migrate(ctx context.Context, config Config, db *sql.DB) error {
	lock, err := waitLock(ctx, config.Path+".migrate")
	if err != nil {
		return err
	}
	defer lock.release()

	tables, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return firerunner.Errorf(firerunner.Internal, "open store: read the embedded migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, tables)
	if err != nil {
		return wrap(err, "prepare the migrations of %s", config.Path)
	}
	before, err := provider.GetDBVersion(ctx)
	if err != nil {
		return wrap(err, "read the version of %s", config.Path)
	}
	sources := provider.ListSources()
	switch newest := sources[len(sources)-1].Version; {
	case before == newest+1: // its statements leave ours working: docs/OPERATIONS.md
		config.Logger.WarnContext(ctx, "the tables are one version newer than this program", slog.Int64("version", before))
		return nil
	case before > newest:
		return firerunner.Errorf(firerunner.Conflict,
			"open store: %s has version %d and this program knows versions up to %d", config.Path, before, newest).
			WithHint("a newer FireRunner wrote it: run that one, or restore the copy that was made before the upgrade")
	}
	done, err := provider.Up(ctx)
	if err != nil {
		return wrap(err, "bring the tables of %s up to date", config.Path)
	}
	for _, m := range done {
		config.Logger.InfoContext(ctx, "store migrated", slog.Int64("version", m.Source.Version), slog.Duration("took", m.Duration))
	}
	for _, further := range config.Migrate {
		if err := further(ctx, db); err != nil {
			return wrap(err, "bring further tables of %s up to date", config.Path)
		}
	}
	return nil
}
