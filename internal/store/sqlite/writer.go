package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

// writer serialises Updates and lets those that come at the same time share one commit, because a commit waits for the
// disk and everything else in an Update takes a fraction of a millisecond.
//
// There is one baton. Who has it runs its own function, in its own goroutine, within a savepoint of the open
// transaction, so that each fails alone; then passes the baton to the next who waits, in the order of coming. Who finds
// nobody waiting, or the group full, commits for all. Nobody waits for company: alone, an Update commits at once.
type writer struct {
	db        *sql.DB
	most      int           // members of a group
	within    time.Duration // a group takes no member after this time, so that the first need not wait long
	now       func() time.Time
	committed func([]firerunner.Event)
	enqueued  func([]firerunner.Step)
	logger    *slog.Logger

	mu     sync.Mutex
	taken  bool            // somebody has the baton
	line   []chan struct{} // those who wait for it; a closed channel is the baton
	closed bool

	open *group // the open transaction; touched only by who has the baton
}

// group is one transaction and all who share it.
type group struct {
	tx     *sql.Tx
	end    context.CancelFunc
	began  time.Time
	size   int
	events []firerunner.Event
	steps  []firerunner.Step
	err    error         // why nothing of it was kept; set before done is closed
	done   chan struct{} // closed once it is committed or rolled back
}

const groupWithin = 3 * time.Millisecond

func newWriter(config Config, db *sql.DB) *writer {
	return &writer{
		db: db, most: config.GroupSize, within: groupWithin, now: config.Now,
		committed: config.Committed, enqueued: config.Enqueued, logger: config.Logger,
	}
}

var errClosed = errors.New("the store is closed")

// enter waits for the baton and returns the transaction to take part in. Each enter that succeeds needs one leave.
func (w *writer) enter(ctx context.Context) (*group, error) {
	if err := w.take(ctx); err != nil {
		return nil, err
	}
	if w.open == nil {
		g, err := w.begin(ctx)
		if err != nil {
			w.pass()
			return nil, err
		}
		w.open = g
	}
	w.open.size++
	return w.open, nil
}

// leave ends the part of one member; broken says that the transaction itself is lost, and everybody's part with it.
func (w *writer) leave(broken error) {
	if broken != nil {
		w.open.err = broken
	}
	w.pass()
}

func (w *writer) take(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return errClosed
	}
	if !w.taken {
		w.taken = true
		w.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	w.line = append(w.line, mine)
	w.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	w.mu.Lock()
	i := slices.Index(w.line, mine)
	if i >= 0 {
		w.line = slices.Delete(w.line, i, i+1)
	}
	w.mu.Unlock()
	if i < 0 { // the baton came at the same moment: it must go on, with what is uncommitted
		w.pass()
	}
	return context.Cause(ctx)
}

// pass gives the baton on. It commits first unless the next may still join: whether one waits, and that one's turn, are
// decided under one lock, so that an open transaction always has somebody who will end it.
func (w *writer) pass() {
	g := w.open
	joinable := g != nil && g.err == nil && g.size < w.most && w.now().Sub(g.began) < w.within
	w.mu.Lock()
	defer w.mu.Unlock()
	if g != nil && (!joinable || len(w.line) == 0) {
		w.mu.Unlock()
		w.open = nil
		w.finish(g)
		w.mu.Lock()
	}
	if len(w.line) == 0 {
		w.taken = false
		return
	}
	close(w.line[0])
	w.line = w.line[1:]
}

// begin opens the transaction. Only its beginning may be given up with ctx: afterwards it belongs to the group, and the
// end of one member's context must not roll back the others.
func (w *writer) begin(ctx context.Context) (*group, error) {
	own, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end)
	tx, err := w.db.BeginTx(own, nil)
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
	return &group{tx: tx, end: end, began: w.now(), done: make(chan struct{})}, nil
}

// finish commits, or rolls back a broken group, and tells everybody.
func (w *writer) finish(g *group) {
	if g.err != nil {
		_ = g.tx.Rollback()
	} else if err := g.tx.Commit(); err != nil {
		g.err = err
	}
	g.end()
	if g.err == nil {
		if w.enqueued != nil && len(g.steps) > 0 {
			w.tell(func() { w.enqueued(g.steps) })
		}
		if w.committed != nil && len(g.events) > 0 {
			w.tell(func() { w.committed(g.events) })
		}
	}
	close(g.done)
}

// tell calls out. What is committed stays committed, whatever the other side does: a panic there must not keep the baton.
func (w *writer) tell(call func()) {
	defer func() {
		if p := recover(); p != nil {
			w.logger.Error("a function called after a commit panicked", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
		}
	}()
	call()
}

// close waits for the baton, commits what is open, and lets nobody in any more.
func (w *writer) close() {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return
	}
	w.closed = true
	if !w.taken {
		w.taken = true
		w.mu.Unlock()
		return
	}
	mine := make(chan struct{})
	w.line = append(w.line, mine)
	w.mu.Unlock()
	<-mine
	if g := w.open; g != nil {
		w.open = nil
		w.finish(g)
	}
}
