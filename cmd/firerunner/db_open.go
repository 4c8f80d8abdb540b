package main

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/queue"
	"github.com/firerunner/firerunner/internal/store/archive"
	"github.com/firerunner/firerunner/internal/store/postgres"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

// postgresConnections is how many connections of a daemon read: its steps, its queue and its pages.
const postgresConnections = 16

// databasePatience is how long a command waits for a server, and for others that migrate.
const databasePatience = time.Minute

// database is the one that the configuration names, on either engine: the only place that knows the difference.
type database struct {
	path      string            // of the SQLite file; empty: PostgreSQL
	url       firerunner.Secret // of PostgreSQL
	log       *slog.Logger
	committed func([]firerunner.Event)
}

func databaseOf(cfg *config.Config, log *slog.Logger) database {
	return database{path: cfg.SQLitePath(), url: cfg.PostgresURL(), log: log}
}

// place says where it is, without a password.
func (d database) place() string {
	if d.path != "" {
		return d.path
	}
	return postgres.Place(d.url)
}

// condition is what is seen of a database from outside.
type condition struct {
	Engine  string `json:"engine"`
	Place   string `json:"place"`
	Server  string `json:"server,omitempty"` // its version
	Version int64  `json:"schema"`           // 0: no tables yet
	Newest  int64  `json:"schema_of_program"`
	owner   bool
	standby bool
	ahead   time.Duration // how far this machine's clock is before the database's
}

func (d database) inspect(ctx context.Context) (condition, error) {
	ctx, cancel := context.WithTimeout(ctx, databasePatience)
	defer cancel()
	if d.path != "" {
		seen, err := sqlite.Inspect(ctx, d.path)
		return condition{Engine: "sqlite", Place: d.path, Version: seen.Version, Newest: seen.Newest, owner: true}, err
	}
	seen, err := postgres.Inspect(ctx, postgres.Config{URL: d.url, Logger: d.log})
	return condition{
		Engine: "postgres", Place: d.place(), Server: seen.Server, Version: seen.Version, Newest: seen.Newest,
		owner: seen.Owner, standby: seen.Standby, ahead: seen.Ahead,
	}, err
}

// there fails with NotFound where there are no tables yet.
func (d database) there(ctx context.Context) error {
	seen, err := d.inspect(ctx)
	if err == nil && seen.Version == 0 {
		err = firerunner.Errorf(firerunner.NotFound, "there are no tables in %s", seen.Place).
			WithHint(`"firerunner serve" or "firerunner db migrate" makes them`)
	}
	return err
}

// hold makes this process one that uses the database, until release: alone, or shared with others where the engine knows
// several. lost gets an error when another has taken over.
func (d database) hold(ctx context.Context, shared bool, lost chan<- error) (release func(), err error) {
	if d.path != "" {
		return sqlite.Hold(d.path)
	}
	ctx, cancel := context.WithTimeout(ctx, databasePatience)
	defer cancel()
	take := postgres.Hold
	if shared {
		take = postgres.Share
	}
	held, err := take(ctx, postgres.Config{URL: d.url, Logger: d.log})
	if err != nil {
		return nil, err
	}
	released := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case err := <-held.Lost():
			select {
			case lost <- err:
			case <-released:
			}
		case <-released:
		}
	})
	return func() {
		close(released)
		watching.Wait()
		held.Release()
	}, nil
}

// openedStore is an open store of either engine.
type openedStore struct {
	firerunner.Store
	firerunner.Ledger
	firerunner.Leases
	firerunner.Registry
	// queue makes the queue on the same database of a Config that lacks only the way there.
	queue func(queue.Config) (*queue.Queue, error)
	// within runs do in one transaction, which is undone if it fails; write = false: it is one that only reads.
	within func(ctx context.Context, write bool, do func(archive.Site) error) error
	// checkFile has the engine look for damage; nil where it does by itself.
	checkFile func(ctx context.Context) error
}

// open opens the database and brings its tables up to date.
func (d database) open(ctx context.Context) (*openedStore, error) {
	enqueuer, err := queue.NewEnqueuer()
	if err != nil {
		return nil, err
	}
	opening, cancel := context.WithTimeout(ctx, databasePatience)
	defer cancel()
	if d.path != "" {
		return d.openSQLite(opening, enqueuer)
	}
	return d.openPostgres(opening, enqueuer)
}

func (d database) openSQLite(ctx context.Context, enqueuer *queue.Enqueuer) (*openedStore, error) {
	store, err := sqlite.Open(ctx, sqlite.Config{
		Path: d.path, Enqueue: enqueuer.Enqueue, Enqueued: enqueuer.Wake,
		Migrate: []func(context.Context, *sql.DB) error{queue.Migrate}, Committed: d.committed, Logger: d.log,
	})
	if err != nil {
		return nil, err
	}
	return &openedStore{
		Store: store, Ledger: store, Leases: store, Registry: store, checkFile: store.CheckFile,
		queue: func(c queue.Config) (*queue.Queue, error) {
			c.DB, c.Enqueuer = store.DB(), enqueuer
			return queue.New(c)
		},
		within: func(ctx context.Context, write bool, do func(archive.Site) error) error {
			begin := store.BeginRead
			if write {
				begin = func(ctx context.Context) (*sql.Tx, error) { return store.DB().BeginTx(ctx, nil) }
			}
			tx, err := begin(ctx)
			if err != nil {
				return firerunner.Errorf(firerunner.Unavailable, "begin a transaction: %w", err)
			}
			if err := do(archive.SQLite(tx, archive.Queue[*sql.Tx]{Pending: queue.Pending, Enqueue: enqueuer.Enqueue})); err != nil {
				_ = tx.Rollback()
				return err
			}
			if err := tx.Commit(); err != nil {
				return firerunner.Errorf(firerunner.Unavailable, "commit: %w", err)
			}
			return nil
		},
	}, nil
}

func (d database) openPostgres(ctx context.Context, enqueuer *queue.Enqueuer) (*openedStore, error) {
	store, err := postgres.Open(ctx, postgres.Config{
		URL: d.url, Enqueue: enqueuer.EnqueuePostgres, Enqueued: enqueuer.Wake, Connections: postgresConnections,
		Migrate: []func(context.Context, *pgxpool.Pool) error{queue.MigratePostgres}, Committed: d.committed, Logger: d.log,
	})
	if err != nil {
		return nil, err
	}
	return &openedStore{
		Store: store, Ledger: store, Leases: store, Registry: store,
		queue: func(c queue.Config) (*queue.Queue, error) {
			c.Pool, c.Enqueuer = store.Pool(), enqueuer
			return queue.New(c)
		},
		within: func(ctx context.Context, write bool, do func(archive.Site) error) error {
			options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
			if write {
				options.AccessMode = pgx.ReadWrite
			}
			var undone error
			err := pgx.BeginTxFunc(ctx, store.Pool(), options, func(tx pgx.Tx) error {
				if _, undone = tx.Exec(ctx, `set local synchronous_commit = on`); undone != nil {
					return undone
				}
				undone = do(archive.Postgres(tx, archive.Queue[pgx.Tx]{Pending: queue.PendingInPostgres, Enqueue: enqueuer.EnqueueInPostgres}))
				return undone
			})
			if err != nil && !errors.Is(err, undone) {
				return firerunner.Errorf(firerunner.Unavailable, "commit: %w", err)
			}
			return err
		},
	}, nil
}
