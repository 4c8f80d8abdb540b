package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/baton"
)

// carefulFor is how long each member has a savepoint of its own after one without spoilt what others did.
const carefulFor = time.Minute

// send sends what those before the member wrote, and then what it writes itself, in one round trip. savepoint: the member is to
// have one before that, which the others' part is never behind, so that its undoing leaves them alone; release: and gives
// it up after it. Where a statement fails and there is no savepoint to go back to, the transaction is lost.
func (t *transaction) send(savepoint bool, own []*pgx.QueuedQuery, release bool) error {
	shared := t.pending
	t.pending = pending{}
	var batch pgx.Batch
	batch.QueuedQueries = append(batch.QueuedQueries, shared.queries...)
	if savepoint && !t.savepoint {
		if t.left {
			batch.Queue(releaseQuery)
		}
		batch.Queue(savepointQuery).Fn = func(results pgx.BatchResults) error {
			_, err := results.Exec()
			t.savepoint, t.left = err == nil, t.left && err != nil
			return err
		}
	}
	batch.QueuedQueries = append(batch.QueuedQueries, own...)
	if release {
		batch.Queue(releaseQuery)
	}
	if batch.Len() == 0 {
		return nil
	}
	err := t.conn.SendBatch(t.ctx, &batch).Close()
	switch status := t.conn.Conn().PgConn().TxStatus(); {
	case err == nil:
		t.savepoint = t.savepoint && !release
	case t.savepoint && status == 'E', t.savepoint && status == 'T' && !release:
	default: // it did not come as far as the savepoint, or gave it up
		t.spoil(err)
		return err
	}
	t.sent(shared, &t.told) // also where the member alone is refused
	return err
}

// spoil gives the transaction up for all who share it.
func (t *transaction) spoil(cause error) {
	t.store.carefulUntil = t.store.config.Now().Add(carefulFor)
	broken := firerunner.Errorf(firerunner.Unavailable, "the transaction that was shared with others failed: %w", cause)
	code, hint := classify(cause)
	if broken.Hint = hint; code == firerunner.Exhausted { // that concerns all; what else the database refused of one, does not
		broken.Code = code
	}
	t.broken = broken
}

// flushShared sends what those before the member wrote.
func (t *transaction) flushShared() error {
	return wrap(t.send(false, nil, false), "write to the database")
}

// sent notes what was pending and has been sent.
func (t *transaction) sent(now pending, told *baton.Told) {
	t.store.memory.saved(now.saves)
	for i, e := range now.events {
		e.ID = *now.ids[i]
		told.Events = append(told.Events, e)
	}
	told.Steps = append(told.Steps, now.steps...)
}

// flushFor sends what is pending where some of it is about what is going to be asked.
func (t *tx) flushFor(ctx context.Context, about func(p *pending) bool) error {
	if _, _, err := t.within(ctx); err != nil {
		return err
	}
	switch {
	case about(&t.pending):
		return t.flush(false)
	case about(&t.shared.pending):
		return t.shared.flushShared()
	}
	return nil
}

// flush sends what is pending, with a savepoint for the member's own. last: nothing of this member comes after it.
func (t *tx) flush(last bool) error {
	own := t.pending
	t.pending = pending{}
	if err := t.shared.send(!own.none(), own.queries, last); err != nil {
		return wrap(err, "write to the database")
	}
	t.shared.sent(own, &t.told)
	return nil
}

// end leaves what the member wrote to those who share the transaction, or sends it where it must be undone alone if it fails.
func (t *tx) end() error {
	careful := t.store.config.Now().Before(t.store.carefulUntil)
	if t.pending.refusable || careful && !t.pending.none() {
		if err := t.flush(true); err != nil {
			return err
		}
	}
	t.shared.ending = ending{pending: t.pending, told: t.told, known: t.known}
	return nil
}

// ending is what is taken over of a member that ends well.
type ending struct {
	pending pending
	told    baton.Told
	known   known
}
