// Package sqlite keeps the truth in one SQLite file: it implements firerunner.Store for one host.
//
// One connection writes and a few others read, so that a reader never waits for the writer (WAL). The queue shares the
// writing connection (Store.DB), which is how a step and the row that needs it are written in one transaction.
//
// Times are kept to the microsecond and come back in UTC. Package storetest holds the promises; docs/adr/0002 says why
// commits are durable and how they are still quick.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/baton"
	"github.com/firerunner/firerunner/internal/store/sqlite/sqlc"
)

//go:generate go tool -modfile=../../../tools/go.mod sqlc generate

// Config says where the store is and who else takes part in its transactions. Only Path is required.
type Config struct {
	// Path of the database file. It is made with mode 0600, a missing folder with 0700.
	Path string
	// Enqueue adds a step to the queue within tx. It must not keep tx. Without it Tx.Enqueue fails with Unavailable.
	Enqueue func(ctx context.Context, tx *sql.Tx, step firerunner.Step) error
	// Migrate are further migrations of the same file, such as the queue's; they run after the store's own, under the
	// same lock, at each Open: doing nothing when nothing is due is their business.
	Migrate []func(ctx context.Context, db *sql.DB) error
	// Committed is called after a commit with the events that it appended, in the order of their IDs. Updates wait
	// for it: it returns quickly and never calls Update.
	Committed func(events []firerunner.Event)
	// Enqueued is called after a commit with the steps that became due by it, under the same terms.
	Enqueued func(steps []firerunner.Step)
	// BusyTimeout is the longest wait for a lock that another process holds; 5 s if zero.
	BusyTimeout time.Duration
	// GroupSize is how many Updates may share one commit; 64 if zero, 1 for none.
	GroupSize int
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Logger; slog.Default() if nil.
	Logger *slog.Logger
}

const (
	defaultBusyTimeout = 5 * time.Second
	defaultGroupSize   = 64
)

func (c Config) withDefaults() Config {
	if c.BusyTimeout <= 0 {
		c.BusyTimeout = defaultBusyTimeout
	}
	if c.GroupSize <= 0 {
		c.GroupSize = defaultGroupSize
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// Store is a firerunner.Store in one SQLite file.
type Store struct {
	reader
	config Config
	writes *sql.DB // one connection
	reads  *sql.DB
	baton  *baton.Baton[*transaction]

	deliveries atomic.Int64 // taken since Open: when to purge
	leases     atomic.Int64 // the same
}

var _ firerunner.Store = (*Store)(nil)

// Open makes or opens the file, brings its tables up to date and returns the store. Any number of processes may open
// one file at once; only one of them may serve (see Hold). It fails with Invalid without a path, Conflict where a newer
// FireRunner wrote the file, and Unavailable where the file or its lock cannot be had.
func Open(ctx context.Context, config Config) (_ *Store, err error) {
	if config.Path == "" {
		return nil, firerunner.Errorf(firerunner.Invalid, "open store: no path is given")
	}
	config = config.withDefaults()
	if err := prepareFile(config.Path); err != nil {
		return nil, err
	}
	writes, err := openPool(config, poolOfWriter)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, writes.Close())
		}
	}()
	if err := migrate(ctx, config, writes); err != nil {
		return nil, err
	}
	reads, err := openPool(config, poolOfReaders)
	if err != nil {
		return nil, err
	}
	s := &Store{
		reader: reader{q: sqlc.New(reads)},
		config: config,
		writes: writes,
		reads:  reads,
		baton:  newBaton(config, writes),
	}
	if err := s.Ping(ctx); err != nil {
		return nil, errors.Join(err, reads.Close())
	}
	return s, nil
}

// readers is how many reads may run at once. Readers do not block each other; they share the processors.
func readers() int { return max(4, runtime.GOMAXPROCS(0)) }

// DB is the pool with the one connection that writes. The queue uses it, so that it and Update take turns in the order
// in which they came instead of meeting SQLite's lock.
func (s *Store) DB() *sql.DB { return s.writes }

// BeginRead begins a transaction that only reads, and sees one state of everything. Nobody waits for it; end it soon, because
// the log cannot be emptied meanwhile.
func (s *Store) BeginRead(ctx context.Context) (*sql.Tx, error) {
	tx, err := s.reads.BeginTx(ctx, nil)
	return tx, wrap(err, "read the store %s", s.config.Path)
}

// Ping checks that the file can be read. It does not wait for writers.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	err := s.reads.QueryRowContext(ctx, "SELECT 1 FROM sqlite_schema LIMIT 1").Scan(&one)
	return wrap(err, "reach the store %s", s.config.Path)
}

// Close waits for the Updates that run, refuses new ones with Unavailable, and closes the file. Stop the queue first.
func (s *Store) Close() error {
	s.baton.Close()
	return wrap(errors.Join(s.reads.Close(), s.writes.Close()), "close the store %s", s.config.Path)
}
