package sqlite

import (
	"context"
	"io/fs"
	"os"

	"github.com/pressly/goose/v3"

	"github.com/firerunner/firerunner"
)

// Condition is what is seen of a database without changing it.
type Condition struct {
	Version int64 // of our tables; 0: there are none
	Newest  int64 // the version that this program makes
}

// Inspect looks at the file; it makes no tables. It fails with NotFound where there is no file.
func Inspect(ctx context.Context, path string) (seen Condition, err error) {
	if _, err := os.Stat(path); err != nil {
		return seen, firerunner.Errorf(firerunner.NotFound, "there is no database at %s", path).
			WithHint(`"firerunner serve" makes it; is this its configuration, and its user?`)
	}
	db, err := openPool(Config{Path: path}.withDefaults(), poolOfReaders)
	if err != nil {
		return seen, err
	}
	defer db.Close()
	tables, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return seen, firerunner.Errorf(firerunner.Internal, "read the embedded migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, tables)
	if err != nil {
		return seen, wrap(err, "prepare the migrations of %s", path)
	}
	sources := provider.ListSources()
	seen.Newest = sources[len(sources)-1].Version
	var there int
	if err := db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema WHERE name = 'goose_db_version'`).Scan(&there); err != nil {
		return seen, wrap(err, "look at %s", path)
	}
	if there > 0 {
		err = db.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&seen.Version)
	}
	return seen, wrap(err, "read the version of %s", path)
}

// CheckFile has SQLite look through the whole file (https://sqlite.org/pragma.html#pragma_quick_check).
func (s *Store) CheckFile(ctx context.Context) error {
	var said string
	if err := s.reads.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&said); err != nil {
		return wrap(err, "check %s", s.config.Path)
	}
	if said != "ok" {
		return firerunner.Errorf(firerunner.Internal, "the database file is damaged: %s", said).WithHint("restore a copy of it")
	}
	return nil
}
