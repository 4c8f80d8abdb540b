package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/baton"
)

// The number is the advisory lock that every transaction with an Update in it holds until it has committed; in the migrations
// it stands too (events_in_order). PostgreSQL gives such a lock up after the commit has become visible to others, so whoever
// has it next sees everything that came before, and READ COMMITTED is enough.
const (
	beginQuery     = "begin isolation level read committed"
	lockQuery      = "select pg_advisory_xact_lock(7379526764671527)"
	savesQuery     = "select last_value from row_saves"
	savepointQuery = "savepoint member"
	releaseQuery   = "release savepoint member"
	undoQuery      = "rollback to savepoint member"
	commitQuery    = "commit"
	rollbackQuery  = "rollback"
)

// groupTimeout is the longest that a transaction may take with all that share it. A server that is silent for so long
// counts as lost.
const groupTimeout = 30 * time.Second

// beginAttempts is how often a transaction is begun on another connection when the first was found dead: nothing has been
// done in it yet. What runs in it is never run twice: the port does not ask for functions that could be.
const beginAttempts = 3

// transaction is a transaction that several Updates share. Nearly all that they write is sent with the commit, and what can
// be foreseen to fail is refused before: so a member has a savepoint only where it writes earlier, or what the
// database may refuse. Where a statement fails without, the whole transaction is lost, and for a while each member has one.
type transaction struct {
	store *Store
	conn  *pgxpool.Conn
	ctx   context.Context //nolint:containedctx // belongs to the group, not to the member that began it
	end   context.CancelFunc

	savepoint bool  // the member has one
	left      bool  // an earlier member's is still there
	broken    error // the member cannot be undone alone

	enqueued []firerunner.Step // to be due at once, by those whose parts are kept
	enqueues []firerunner.Step // the same, by the member
	fence    *fence            // the lease that was looked at last

	pending pending // of those whose parts are kept
	told    baton.Told
	ending  ending // of the member
}

// waits reports whether the same step was enqueued before in this transaction: it begins after the commit, and sees what is
// written now.
func (t *transaction) waits(s firerunner.Step) bool {
	return slices.Contains(t.enqueued, s) || slices.Contains(t.enqueues, s)
}

// begin opens a transaction and waits for the lock of writers, no longer than ctx lives.
func (s *Store) begin(ctx context.Context) (*transaction, error) {
	waiting, cancel := context.WithTimeoutCause(ctx, s.config.LockTimeout, errLocked)
	defer cancel()
	for attempt := 1; ; attempt++ {
		t, err := s.beginOnce(waiting)
		switch {
		case err == nil:
			return t, nil
		case waiting.Err() != nil:
			return nil, context.Cause(waiting)
		case attempt == beginAttempts || !connectionLost(err):
			return nil, err
		}
	}
}

var errLocked = firerunner.Errorf(firerunner.Unavailable, "another process has been writing to the database all the time").
	WithHint("look for a transaction that does not end: select * from pg_stat_activity where state <> 'idle'")

func (s *Store) beginOnce(ctx context.Context) (*transaction, error) {
	conn, err := s.writes.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	var saves int64
	var first pgx.Batch
	first.Queue(beginQuery)
	first.Queue(lockQuery)
	first.Queue(savesQuery).QueryRow(func(count pgx.Row) error { return count.Scan(&saves) })
	foreseen := foresee(&first, s.fenced)
	if err := conn.SendBatch(ctx, &first).Close(); err != nil {
		conn.Release()
		return nil, err
	}
	s.memory.begin(conn.Conn(), saves)
	t := &transaction{store: s, conn: conn, fence: foreseen}
	t.ctx, t.end = context.WithTimeoutCause(context.WithoutCancel(ctx), groupTimeout, errSilent)
	return t, nil
}

// Enter implements baton.Transaction.
func (t *transaction) Enter() error { return nil }

// Undo implements baton.Transaction. After a statement that failed PostgreSQL wants a savepoint to go back to.
func (t *transaction) Undo() error {
	t.store.memory.forget()
	t.ending = ending{}
	switch {
	case t.broken != nil:
		return t.broken
	case t.savepoint:
		t.savepoint, t.left, t.enqueues = false, true, nil
		_, err := t.conn.Exec(t.ctx, undoQuery)
		return err
	case t.conn.Conn().PgConn().TxStatus() != 'T':
		return errFailed
	}
	t.enqueues = nil
	return nil
}

var errFailed = firerunner.Errorf(firerunner.Unavailable, "a statement of this transaction failed, so nothing of it is kept")

// Keep implements baton.Transaction. After a statement that failed PostgreSQL keeps nothing of the member's part, whatever
// the member made of the error.
func (t *transaction) Keep() (refused, broken error) {
	switch conn := t.conn.Conn().PgConn(); {
	case conn.IsClosed():
		return nil, firerunner.Errorf(firerunner.Unavailable, "the connection to the database is lost")
	case t.broken != nil:
		return nil, t.broken
	case conn.TxStatus() == 'E' && t.savepoint:
		return errFailed, nil
	case conn.TxStatus() != 'T':
		return nil, errFailed
	}
	t.left, t.savepoint = t.left || t.savepoint, false
	t.enqueued, t.enqueues = append(t.enqueued, t.enqueues...), nil
	t.pending.add(t.ending.pending)
	t.told.Events = append(t.told.Events, t.ending.told.Events...)
	t.told.Steps = append(t.told.Steps, t.ending.told.Steps...)
	t.store.memory.keep(t.ending.known)
	t.ending = ending{}
	return nil, nil
}

// Commit implements baton.Transaction. Where the connection breaks while it runs nobody knows whether it did.
func (t *transaction) Commit(told *baton.Told) error {
	defer t.close()
	if err := t.flushShared(); err != nil {
		t.store.memory.forget()
		_, _ = t.conn.Exec(t.ctx, rollbackQuery)
		return t.broken
	}
	tag, err := t.conn.Exec(t.ctx, commitQuery)
	if err == nil && tag.String() != "COMMIT" {
		err = firerunner.Errorf(firerunner.Internal, "the database rolled back instead: %s", tag)
	}
	if err != nil {
		t.store.memory.forget()
		return err
	}
	*told = t.told
	return nil
}

// Rollback implements baton.Transaction.
func (t *transaction) Rollback() {
	defer t.close()
	t.store.memory.forget()
	_, _ = t.conn.Exec(t.ctx, rollbackQuery)
}

func (t *transaction) close() {
	t.end()
	t.conn.Release() // a connection that is in no good state is closed by this
}
