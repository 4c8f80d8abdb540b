// Package postgres keeps the truth in a PostgreSQL database, 15 or newer: it implements firerunner.Store and
// firerunner.Ledger for many processes.
//
// One connection of each process writes, and a lock of the database lets one process write at a time: so Updates are
// serialised wherever they come from, nothing in them is ever in conflict, and events are numbered in the order of their
// commits. Updates of one process that come together share a commit. Reads, and the queue, use a pool of their own and wait
// for nobody. docs/adr/0009 says why.
//
// The tables are those of package sqlite, and the rows mean the same (package row). Text cannot hold a zero byte here, nor
// anything that is not UTF-8: both become U+FFFD. Package storetest holds the promises.
package postgres

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/baton"
	"github.com/firerunner/firerunner/internal/store/postgres/sqlc"
)

// Config says where the store is and who else takes part in its transactions. Only URL is required.
type Config struct {
	// URL of the database: postgres://user:password@host:5432/name?sslmode=verify-full. It holds a password, so it is in no
	// error and no log. A pooler in front of the server must give each client a session of its own.
	URL firerunner.Secret
	// Enqueue adds to the batch what adds a step to the queue; the batch is sent in the transaction. Without it Tx.Enqueue
	// fails with Unavailable.
	Enqueue func(batch *pgx.Batch, step firerunner.Step) error
	// Migrate are further migrations of the same database, such as the queue's; they run after the store's own, under the
	// same lock, at each Open: doing nothing when nothing is due is their business.
	Migrate []func(ctx context.Context, pool *pgxpool.Pool) error
	// Committed is called after a commit of this process with the events that it appended, in the order of their IDs.
	// Updates wait for it: it returns quickly and never calls Update.
	Committed func(events []firerunner.Event)
	// Enqueued is called after a commit with the steps that became due by it, under the same terms.
	Enqueued func(steps []firerunner.Step)
	// LockTimeout is the longest wait for other processes that write; 10 s if zero.
	LockTimeout time.Duration
	// GroupSize is how many Updates may share one commit; 64 if zero, 1 for none.
	GroupSize int
	// Connections is how many may read, the queue's included; 8 if zero. One more writes.
	Connections int
	// Name is how this process calls itself to the server (application_name); "firerunner" if empty.
	Name string
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Logger; slog.Default() if nil.
	Logger *slog.Logger
}

const (
	defaultLockTimeout = 10 * time.Second
	defaultGroupSize   = 64
	groupWithin        = 10 * time.Millisecond // as the first of a group waits for the others, where they do not end before
	defaultConnections = 8
	defaultName        = "firerunner"
	readTimeout        = 30 * time.Second // of a read whose context has no deadline of its own
)

func (c Config) withDefaults() Config {
	if c.LockTimeout <= 0 {
		c.LockTimeout = defaultLockTimeout
	}
	if c.GroupSize <= 0 {
		c.GroupSize = defaultGroupSize
	}
	if c.Connections <= 0 {
		c.Connections = defaultConnections
	}
	if c.Name == "" {
		c.Name = defaultName
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// Store is a firerunner.Store in one PostgreSQL database.
type Store struct {
	reader
	config Config
	writes *pgxpool.Pool // one connection
	reads  *pgxpool.Pool
	baton  *baton.Baton[*transaction]

	// Of who has the baton.
	memory       memory
	carefulUntil time.Time // each member has a savepoint
	fenced       string    // the lease that was asked for last

	deliveries atomic.Int64 // taken since Open: when to purge
	leases     atomic.Int64 // the same
}

var _ firerunner.Store = (*Store)(nil)

// Open connects, brings the tables up to date and returns the store. Any number of processes may open one database at
// once. It fails with Invalid for a URL that is none or a server that is too old, Conflict where a newer FireRunner made
// the tables, Unauthorized where the server does not let us in, and Unavailable where it does not answer.
func Open(ctx context.Context, config Config) (_ *Store, err error) {
	config = config.withDefaults()
	reads, err := openPool(ctx, config, int32(config.Connections), nil)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			reads.Close()
		}
	}()
	if err := migrate(ctx, config, reads); err != nil {
		return nil, err
	}
	writes, err := openPool(ctx, config, 1, writerSettings())
	if err != nil {
		return nil, err
	}
	s := &Store{reader: reader{q: sqlc.New(reads), within: bounded}, config: config, writes: writes, reads: reads}
	s.baton = baton.New(baton.Config[*transaction]{
		Begin: s.begin, Wrap: wrap, Most: config.GroupSize, Within: groupWithin, Now: config.Now,
		Committed: config.Committed, Enqueued: config.Enqueued, Logger: config.Logger,
	})
	return s, nil
}

// Pool is the connections that read. The queue uses it too.
func (s *Store) Pool() *pgxpool.Pool { return s.reads }

// Ping checks that the database answers. It does not wait for writers.
func (s *Store) Ping(ctx context.Context) error {
	return wrap(s.reads.Ping(ctx), "reach the database")
}

// Close waits for the Updates that run, refuses new ones with Unavailable, and ends the connections. Stop the queue first.
func (s *Store) Close() error {
	s.baton.Close()
	s.reads.Close()
	s.writes.Close()
	return nil
}

// bounded gives a read that would wait for ever a deadline.
func bounded(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if _, has := ctx.Deadline(); has {
		return ctx, func() {}, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, readTimeout, errSilent)
	return ctx, cancel, nil
}

var errSilent = errors.New("the database does not answer")
