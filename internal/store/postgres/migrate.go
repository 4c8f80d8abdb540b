package postgres

import (
	"context"
	"database/sql"
	"embed"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/firerunner/firerunner"
)

//go:embed migrations/*.sql
var migrations embed.FS

// oldest is the oldest server whose tests are run.
const oldest = 15

// lockOfMigrations is held by the one session that migrates.
const lockOfMigrations = 7379526764671528

// lockPoll is how often the lock of migrations is looked at. A statement that waits for it would hold a snapshot, and
// CREATE INDEX CONCURRENTLY, which the queue's migrations may do, waits for every snapshot.
const lockPoll = 20 * time.Millisecond

// migrate brings the tables up to date. Two processes that migrate at once would both fail halfway, so one lock stands
// around all of it: our tables and the queue's. It belongs to a session, because the queue's migrations bring transactions
// of their own; when the process dies, the server gives it up.
func migrate(ctx context.Context, config Config, pool *pgxpool.Pool) error {
	conn, err := connect(ctx, config)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := checkServer(conn.PgConn().ParameterStatus("server_version")); err != nil {
		return err
	}
	for locked := false; !locked; {
		if err := conn.QueryRow(ctx, "select pg_try_advisory_lock($1)", int64(lockOfMigrations)).Scan(&locked); err != nil {
			return wrap(err, "wait for the lock of migrations")
		}
		if locked {
			break
		}
		select {
		case <-ctx.Done():
			return firerunner.Errorf(firerunner.Unavailable, "wait for the lock of migrations: %w", context.Cause(ctx))
		case <-time.After(lockPoll):
		}
	}
	if err := migrateTables(ctx, config, pool); err != nil {
		return err
	}
	for _, further := range config.Migrate {
		if err := further(ctx, pool); err != nil {
			return wrap(err, "bring further tables up to date")
		}
	}
	return nil
}

// migrateTables brings our own tables up to date. A database of one version newer than ours is left as it is and used: each
// migration leaves the statements of the version before it working (docs/OPERATIONS.md).
func migrateTables(ctx context.Context, config Config, pool *pgxpool.Pool) error {
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	provider, err := newProvider(db)
	if err != nil {
		return err
	}
	before, err := provider.GetDBVersion(ctx)
	if err != nil {
		return wrap(err, "read the version of the tables")
	}
	switch newest := newestOf(provider); {
	case before == newest:
		return nil
	case before == newest+1:
		config.Logger.WarnContext(ctx, "the tables are one version newer than this program", slog.Int64("version", before))
		return nil
	case before > newest:
		return firerunner.Errorf(firerunner.Conflict,
			"open store: the database has version %d and this program knows versions up to %d", before, newest).
			WithHint("a newer FireRunner made its tables: run that one, or restore the copy that was made before the upgrade")
	}
	done, err := provider.Up(ctx)
	if err != nil {
		return wrap(err, "bring the tables up to date")
	}
	for _, m := range done {
		config.Logger.InfoContext(ctx, "store migrated", slog.Int64("version", m.Source.Version), slog.Duration("took", m.Duration))
	}
	return nil
}

func newProvider(db *sql.DB) (*goose.Provider, error) {
	tables, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Internal, "open store: read the embedded migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, tables)
	return provider, wrap(err, "prepare the migrations")
}

func newestOf(p *goose.Provider) int64 {
	sources := p.ListSources()
	return sources[len(sources)-1].Version
}

// checkServer refuses a server that is too old, by the version that it says when we connect, such as 15.18 (Debian).
func checkServer(version string) error {
	digits := strings.IndexFunc(version, func(r rune) bool { return !unicode.IsDigit(r) })
	if digits < 0 {
		digits = len(version)
	}
	if major, err := strconv.Atoi(version[:digits]); err != nil || major < oldest {
		return firerunner.Errorf(firerunner.Invalid, "the server is PostgreSQL %.40q", version).WithHint("PostgreSQL %d or newer is needed", oldest)
	}
	return nil
}
