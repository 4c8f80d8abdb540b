// Package baton serialises the Updates of a store and lets those that come at the same time share one commit, because a
// commit waits for the disk and everything else in an Update takes a fraction of a millisecond.
//
// There is one baton. Who has it runs its own function, in its own goroutine, as a part of the open transaction that is
// undone alone if it fails; then passes the baton to the next who waits, in the order of coming. Who finds
// nobody waiting, or the group full, commits for all. Nobody waits for company: alone, an Update commits at once.
package baton

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

// Transaction is an open transaction of an engine, whose members come one after the other.
type Transaction interface {
	// Enter begins the part of a member. An error of Enter, Undo or Keep says that the whole transaction is lost.
	Enter() error
	// Undo takes the part of the member back; the transaction goes on.
	Undo() error
	// Keep ends the part of the member. refused says why it cannot be kept although the transaction goes on: it is to be
	// undone.
	Keep() (refused, broken error)
	// Commit commits. After an error nobody knows whether it did. It adds to told what members left to it.
	Commit(told *Told) error
	// Rollback gives everything up. It is called once, also for a transaction that is lost.
	Rollback()
}

// Config of a Baton.
type Config[T Transaction] struct {
	// Begin opens a transaction. Only its beginning may be given up with ctx: afterwards it belongs to the group, and the
	// end of one member's context must not roll back the others.
	Begin func(ctx context.Context) (T, error)
	// Wrap says what we were doing and gives an error its code.
	Wrap func(err error, doing string, args ...any) error
	// Most is how many members a group may have.
	Most int
	// Within is after which time a group takes no member, so that the first need not wait long; 3 ms if zero.
	Within time.Duration
	// Now is the clock.
	Now func() time.Time
	// Committed and Enqueued are called after a commit with what became true by it; either may be nil.
	Committed func([]firerunner.Event)
	Enqueued  func([]firerunner.Step)
	Logger    *slog.Logger
}

// Baton is what Updates pass on.
type Baton[T Transaction] struct {
	config Config[T]

	mu     sync.Mutex
	taken  bool            // somebody has the baton
	line   []chan struct{} // those who wait for it; a closed channel is the baton
	closed bool

	open *group[T] // the open transaction; touched only by who has the baton
}

// group is one transaction and all who share it.
type group[T Transaction] struct {
	tx    T
	began time.Time
	size  int
	told  Told
	err   error         // why nothing of it was kept; set before done is closed
	done  chan struct{} // closed once it is committed or rolled back
}

// Told is what becomes true with the commit.
type Told struct {
	Events []firerunner.Event
	Steps  []firerunner.Step
}

const defaultWithin = 3 * time.Millisecond

// New returns a Baton that lies there for the first to take.
func New[T Transaction](config Config[T]) *Baton[T] {
	if config.Within <= 0 {
		config.Within = defaultWithin
	}
	return &Baton[T]{config: config}
}

var errClosed = errors.New("the store is closed")

// Update runs do in the caller's goroutine, one at a time, and returns when what it did is committed, or undone. do fails where
// ctx has ended meanwhile, and fills told with what its part makes true.
func (b *Baton[T]) Update(ctx context.Context, do func(tx T, told *Told) error) error {
	g, err := b.enter(ctx)
	if err != nil {
		if errors.Is(err, errClosed) {
			return firerunner.Errorf(firerunner.Unavailable, "update the store: %w", err)
		}
		return b.config.Wrap(err, "wait to update the store")
	}
	if err := b.attempt(g, do); err != nil {
		return err
	}
	<-g.done // not given up with ctx: the answer would be "perhaps"
	return b.config.Wrap(g.err, "commit")
}

// attempt runs do as a member. Its deferred part also runs when do panics or ends the goroutine: then nothing of it is
// kept, and the others go on.
func (b *Baton[T]) attempt(g *group[T], do func(tx T, told *Told) error) error {
	var broken error
	var told Told
	entered, kept := false, false
	defer func() {
		if entered && !kept && broken == nil {
			broken = g.tx.Undo()
		}
		b.leave(broken)
	}()
	if broken = g.tx.Enter(); broken != nil {
		return b.config.Wrap(broken, "begin to update the store")
	}
	entered = true
	if err := do(g.tx, &told); err != nil {
		return err
	}
	var refused error
	if refused, broken = g.tx.Keep(); refused != nil || broken != nil {
		return b.config.Wrap(errors.Join(refused, broken), "update the store")
	}
	kept = true
	g.told.Events = append(g.told.Events, told.Events...)
	g.told.Steps = append(g.told.Steps, told.Steps...)
	return nil
}

// enter waits for the baton and returns the group to take part in. Each enter that succeeds needs one leave.
func (b *Baton[T]) enter(ctx context.Context) (*group[T], error) {
	if err := b.take(ctx); err != nil {
		return nil, err
	}
	if b.open == nil {
		tx, err := b.config.Begin(ctx)
		if err != nil {
			b.pass()
			return nil, err
		}
		b.open = &group[T]{tx: tx, began: b.config.Now(), done: make(chan struct{})}
	}
	b.open.size++
	return b.open, nil
}

// leave ends the part of one member; broken says that the transaction itself is lost, and everybody's part with it.
func (b *Baton[T]) leave(broken error) {
	if broken != nil {
		b.open.err = broken
	}
	b.pass()
}

func (b *Baton[T]) take(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return errClosed
	}
	if !b.taken {
		b.taken = true
		b.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	b.line = append(b.line, mine)
	b.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	i := slices.Index(b.line, mine)
	if i >= 0 {
		b.line = slices.Delete(b.line, i, i+1)
	}
	b.mu.Unlock()
	if i < 0 { // the baton came at the same moment: it must go on, with what is uncommitted
		b.pass()
	}
	return context.Cause(ctx)
}

// pass gives the baton on. It commits first unless the next may still join: whether one waits, and that one's turn, are
// decided under one lock, so that an open transaction always has somebody who will end it.
func (b *Baton[T]) pass() {
	g := b.open
	joinable := g != nil && g.err == nil && g.size < b.config.Most && b.config.Now().Sub(g.began) < b.config.Within
	b.mu.Lock()
	defer b.mu.Unlock()
	if g != nil && (!joinable || len(b.line) == 0) {
		b.mu.Unlock()
		b.open = nil
		b.finish(g)
		b.mu.Lock()
	}
	if len(b.line) == 0 {
		b.taken = false
		return
	}
	close(b.line[0])
	b.line = b.line[1:]
}

// finish commits, or rolls back a broken group, and tells everybody.
func (b *Baton[T]) finish(g *group[T]) {
	if g.err != nil {
		g.tx.Rollback()
	} else if err := g.tx.Commit(&g.told); err != nil {
		g.err = err
	}
	if g.err == nil {
		if b.config.Enqueued != nil && len(g.told.Steps) > 0 {
			b.tell(func() { b.config.Enqueued(g.told.Steps) })
		}
		if b.config.Committed != nil && len(g.told.Events) > 0 {
			b.tell(func() { b.config.Committed(g.told.Events) })
		}
	}
	close(g.done)
}

// tell calls out. What is committed stays committed, whatever the other side does: a panic there must not keep the baton.
func (b *Baton[T]) tell(call func()) {
	defer func() {
		if p := recover(); p != nil {
			b.config.Logger.Error("a function called after a commit panicked", slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
		}
	}()
	call()
}

// Waiting is how many Updates wait for their turn.
func (b *Baton[T]) Waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.line)
}

// Close waits for the baton, commits what is open, and lets nobody in any more. Twice is no error.
func (b *Baton[T]) Close() {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return
	}
	b.closed = true
	if !b.taken {
		b.taken = true
		b.mu.Unlock()
		return
	}
	mine := make(chan struct{})
	b.line = append(b.line, mine)
	b.mu.Unlock()
	<-mine
	if g := b.open; g != nil {
		b.open = nil
		b.finish(g)
	}
}
