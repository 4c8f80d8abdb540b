package sqlite

import (
	"context"
	"database/sql"

	"github.com/firerunner/firerunner/internal/store/baton"
)

func newBaton(config Config, db *sql.DB) *baton.Baton[*transaction] {
	return baton.New(baton.Config[*transaction]{
		Begin: func(ctx context.Context) (*transaction, error) { return begin(ctx, db) },
		Wrap:  wrap, Most: config.GroupSize, Now: config.Now,
		Committed: config.Committed, Enqueued: config.Enqueued, Logger: config.Logger,
	})
}

// transaction is a transaction that several Updates share; each has a savepoint of its own.
type transaction struct {
	*sql.Tx
	end context.CancelFunc
}

// begin opens the transaction; only that may be given up with ctx.
func begin(ctx context.Context, db *sql.DB) (*transaction, error) {
	own, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end)
	tx, err := db.BeginTx(own, nil)
	if !stop() {
		if err == nil {
			_ = tx.Rollback()
		}
		end()
		return nil, context.Cause(ctx)
	}
	if err != nil {
		end()
		return nil, err
	}
	return &transaction{Tx: tx, end: end}, nil
}

// savepoint fails only where SQLite gave the whole transaction up by itself, such as when the disk is full
// (https://sqlite.org/lang_transaction.html#response_to_errors_within_a_transaction).
func (t *transaction) savepoint(statements ...string) error {
	for _, s := range statements {
		if _, err := t.ExecContext(context.Background(), s); err != nil {
			return err
		}
	}
	return nil
}

// Enter implements baton.Transaction.
func (t *transaction) Enter() error { return t.savepoint("SAVEPOINT member") }

// Undo implements baton.Transaction.
func (t *transaction) Undo() error { return t.savepoint("ROLLBACK TO member", "RELEASE member") }

// Keep implements baton.Transaction.
func (t *transaction) Keep() (refused, broken error) { return nil, t.savepoint("RELEASE member") }

// Commit implements baton.Transaction.
func (t *transaction) Commit(*baton.Told) error {
	defer t.end()
	return t.Tx.Commit()
}

// Rollback implements baton.Transaction.
func (t *transaction) Rollback() {
	_ = t.Tx.Rollback()
	t.end()
}
