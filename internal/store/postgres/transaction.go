package postgres

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/firerunner/firerunner"
)

// Each of these is one round trip. The number is the advisory lock that every transaction with an Update in it holds until it
// has committed; in the migrations it stands too (events_in_order). PostgreSQL gives such a lock up after the commit has
// become visible to others, so whoever has it next sees everything that came before, and READ COMMITTED is enough.
const (
	beginQuery  = "begin isolation level read committed; select pg_advisory_xact_lock(7379526764671527); savepoint member"
	undoQuery   = "rollback to savepoint member"
	commitQuery = "commit"
)

// enterQueries end the part of one member and begin that of the next.
var enterQueries = []string{"release savepoint member", "savepoint member"}

// groupTimeout is the longest that a transaction may take with all that share it. A server that is silent for so long
// counts as lost.
const groupTimeout = 30 * time.Second

// beginAttempts is how often a transaction is begun on another connection when the first was found dead: nothing has been
// done in it yet. What runs in it is never run twice: the port does not ask for functions that could be.
const beginAttempts = 3

// transaction is a transaction that several Updates share; each has a savepoint of its own.
type transaction struct {
	pgx.Tx
	conn *pgxpool.Conn
	ctx  context.Context //nolint:containedctx // belongs to the group, not to the member that began it
	end  context.CancelFunc

	kept    bool // somebody's part stands behind the savepoint
	entered bool // it does not, and the savepoint of the next was made with the last statements of that part
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
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: beginQuery, CommitQuery: commitQuery})
	if err != nil {
		conn.Release()
		return nil, err
	}
	t := &transaction{Tx: tx, conn: conn}
	t.ctx, t.end = context.WithTimeoutCause(context.WithoutCancel(ctx), groupTimeout, errSilent)
	return t, nil
}

// run runs statements without parameters.
func (t *transaction) run(statements string) error {
	_, err := t.Exec(t.ctx, statements)
	return err
}

// Enter implements baton.Transaction. The first member finds the savepoint made, and so does who follows one that was
// undone.
func (t *transaction) Enter() error {
	if !t.kept {
		return nil
	}
	t.kept = false
	return t.run(strings.Join(enterQueries, ";"))
}

// Undo implements baton.Transaction.
func (t *transaction) Undo() error { return t.run(undoQuery) }

// Keep implements baton.Transaction. After a statement that failed PostgreSQL keeps nothing of the member's part, whatever
// the member made of the error.
func (t *transaction) Keep() (refused, broken error) {
	switch conn := t.conn.Conn().PgConn(); {
	case conn.IsClosed():
		return nil, firerunner.Errorf(firerunner.Unavailable, "the connection to the database is lost")
	case conn.TxStatus() == 'E':
		return firerunner.Errorf(firerunner.Conflict, "a statement of this transaction failed, so nothing of it is kept"), nil
	case conn.TxStatus() != 'T':
		return nil, firerunner.Errorf(firerunner.Internal, "the transaction has ended by itself")
	}
	t.kept, t.entered = !t.entered, false
	return nil, nil
}

// Commit implements baton.Transaction. Where the connection breaks while it runs nobody knows whether it did.
func (t *transaction) Commit() error {
	defer t.close()
	err := t.Tx.Commit(t.ctx)
	if errors.Is(err, pgx.ErrTxCommitRollback) {
		return firerunner.Errorf(firerunner.Internal, "the database rolled back instead: %w", err)
	}
	return err
}

// Rollback implements baton.Transaction.
func (t *transaction) Rollback() {
	defer t.close()
	_ = t.Tx.Rollback(t.ctx)
}

func (t *transaction) close() {
	t.end()
	t.conn.Release() // a connection that is in no good state is closed by this
}
