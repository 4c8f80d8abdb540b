package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/stdlib"

	"github.com/firerunner/firerunner"
)

// Condition is what is seen of a database without changing it.
type Condition struct {
	Server  string        // the server's version, such as 15.18 (Debian ...)
	Version int64         // of our tables; 0: there are none
	Newest  int64         // the version that this program makes
	Owner   bool          // the user may make and change tables
	Standby bool          // the server takes no writes
	Ahead   time.Duration // how far this machine's clock is before the server's; 0 where the answer's own time may be all of it
}

// Inspect connects and looks; it makes no tables. It fails as Open does where the server does not let us in, does not answer
// or is too old.
func Inspect(ctx context.Context, config Config) (seen Condition, err error) {
	config = config.withDefaults()
	pool, err := openPool(ctx, config, 1, nil)
	if err != nil {
		return seen, err
	}
	defer pool.Close()
	var tables bool
	var micros int64
	asked := time.Now()
	if err := pool.QueryRow(ctx, `select current_setting('server_version'), pg_is_in_recovery(),
		has_schema_privilege(current_schema(), 'CREATE'), to_regclass('goose_db_version') is not null,
		(extract(epoch from clock_timestamp()) * 1000000)::bigint`).
		Scan(&seen.Server, &seen.Standby, &seen.Owner, &tables, &micros); err != nil {
		return seen, wrap(err, "look at %s", Place(config.URL))
	}
	seen.Ahead = ahead(asked, time.Now(), time.UnixMicro(micros))
	if err := checkServer(seen.Server); err != nil {
		return seen, err
	}
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	provider, err := newProvider(db)
	if err != nil {
		return seen, err
	}
	seen.Newest = newestOf(provider)
	if tables {
		if err := pool.QueryRow(ctx, `select coalesce(max(version_id), 0) from goose_db_version where is_applied`).Scan(&seen.Version); err != nil {
			return seen, wrap(err, "read the version of the tables")
		}
	}
	return seen, nil
}

// ahead is how far our clock is before another that said theirs at a moment between asked and answered.
func ahead(asked, answered, theirs time.Time) time.Duration {
	switch {
	case theirs.Before(asked):
		return asked.Sub(theirs)
	case theirs.After(answered):
		return answered.Sub(theirs)
	}
	return 0
}

// CheckVersion says whether this program may work on tables of the version.
func (c Condition) CheckVersion() error {
	switch {
	case c.Version == 0:
		return firerunner.Errorf(firerunner.NotFound, "the database has no tables yet").WithHint(`"firerunner db migrate" or "firerunner serve" makes them`)
	case c.Version < c.Newest:
		return firerunner.Errorf(firerunner.Conflict, "the tables have version %d, this program wants %d", c.Version, c.Newest).
			WithHint(`"firerunner db migrate" or "firerunner serve" brings them up to date`)
	case c.Version > c.Newest+1:
		return firerunner.Errorf(firerunner.Conflict, "the tables have version %d, this program knows %d", c.Version, c.Newest).WithHint("run the newer FireRunner")
	}
	return nil
}
