package control

import (
	"context"
	"log/slog"
	"sync"

	"github.com/firerunner/firerunner"
)

// change is a transaction that remembers its events, so that each can be logged once it is true.
type change struct {
	firerunner.Tx
	events []firerunner.Event
	// afterwards is done once the transaction has committed.
	afterwards []func()
}

// update runs do in one transaction. When it has committed, its events are logged and whoever waits for a change is
// woken.
func (c *Control) update(ctx context.Context, do func(ch *change) error) error {
	var ch change
	err := c.Store.Update(ctx, func(tx firerunner.Tx) error {
		ch = change{Tx: tx}
		if err := c.under(ctx, tx); err != nil {
			return err
		}
		return do(&ch)
	})
	if err != nil {
		return err
	}
	for _, do := range ch.afterwards {
		do()
	}
	for _, e := range ch.events {
		c.log(e)
	}
	c.changes.send()
	return nil
}

// event appends to the log in this transaction.
func (ch *change) event(ctx context.Context, e firerunner.Event) error {
	if err := ch.AddEvent(ctx, e); err != nil {
		return err
	}
	ch.events = append(ch.events, e)
	return nil
}

// move puts a runner into a greater state, writes it, and enqueues the step that its new owner has to do.
func (c *Control) move(ctx context.Context, ch *change, r *firerunner.Runner, to firerunner.State, owner firerunner.Owner, message string) error {
	e, err := r.Move(to, owner, c.set().Deadlines, c.Now(), message)
	if err != nil {
		return err
	}
	if to == firerunner.Gone && r.Outcome == "" {
		r.Outcome = firerunner.Lost
	}
	if err := ch.SaveRunner(ctx, r); err != nil {
		return err
	}
	if err := ch.event(ctx, e); err != nil {
		return err
	}
	switch to {
	case firerunner.Running:
		if err := c.tryWorked(ctx, ch, *r); err != nil {
			return err
		}
		return ch.Enqueue(ctx, c.advanceStep(*r)) // see seal
	case firerunner.Placed, firerunner.Stopping:
		return ch.Enqueue(ctx, c.advanceStep(*r))
	case firerunner.Gone:
		c.trials.gone(r.ID)
		// capacity is free, and the job it was for may still wait
		if err := ch.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepPlace}); err != nil {
			return err
		}
		return ch.Enqueue(ctx, demandStep(r.Demand))
	}
	return nil
}

// end says that the runner is to go and enqueues the step of the owner that will see to it. The first end wins.
func (c *Control) end(ctx context.Context, ch *change, r *firerunner.Runner, o firerunner.Outcome, why firerunner.Reason, actor, message string) error {
	ended, err := c.endUnsaved(ctx, ch, r, o, why, actor, message)
	if err != nil || !ended {
		return err
	}
	if err := ch.SaveRunner(ctx, r); err != nil {
		return err
	}
	return ch.Enqueue(ctx, c.advanceStep(*r))
}

// endUnsaved is end for who saves the runner, and moves it on, in the same transaction. It reports whether this was the first
// end.
func (c *Control) endUnsaved(ctx context.Context, ch *change, r *firerunner.Runner, o firerunner.Outcome, why firerunner.Reason, actor, message string) (bool, error) {
	if r.Outcome != "" { // the guest told the outcome before its gitlab-runner ended
		o = r.Outcome
	}
	e, ok := r.End(o, why, actor, message, c.Now())
	if !ok {
		return false, nil
	}
	if err := ch.event(ctx, e); err != nil {
		return false, err
	}
	if o == firerunner.Rejected && why != firerunner.ReasonCredential {
		c.rejections.add(r.Demand, r.Host, c.Now())
	}
	return true, c.tryFailed(ctx, ch, *r, message)
}

// note appends an event about a runner.
func (c *Control) note(ctx context.Context, ch *change, r firerunner.Runner, kind firerunner.EventKind, actor, message string) error {
	return ch.event(ctx, firerunner.Event{
		At: c.Now(), Kind: kind, RunnerID: r.ID, JobID: r.JobID, ProjectID: r.Demand.ProjectID,
		From: r.State, To: r.State, Actor: actor, Message: message,
	})
}

// log writes one line for one event: a constant message with fields.
func (c *Control) log(e firerunner.Event) {
	level, msg := slog.LevelInfo, "event"
	switch e.Kind {
	case firerunner.EventMoved:
		msg = "runner moved"
	case firerunner.EventUnwanted:
		msg = "runner is to go"
	case firerunner.EventQueued:
		msg = "runner queued"
	case firerunner.EventOverdue:
		level, msg = slog.LevelWarn, "runner is overdue"
	case firerunner.EventJobRefused:
		level, msg = slog.LevelWarn, "job refused"
	case firerunner.EventJobSeen:
		msg = "job seen"
	case firerunner.EventTookJob:
		msg = "runner took a job"
	case firerunner.EventNotice:
		msg = "runner notice"
	case firerunner.EventHost:
		msg = "host changed"
	case firerunner.EventImage:
		msg = "image on a host"
		if e.Reason != "" {
			level = slog.LevelWarn
		}
	case firerunner.EventWebhook:
		msg = "webhook changed"
		if e.Reason != "" {
			level = slog.LevelWarn
		}
	case firerunner.EventFailedFor:
		level, msg = slog.LevelWarn, "job failed for its microVM"
	case firerunner.EventReaped:
		level, msg = slog.LevelWarn, "removed what nobody owned"
	}
	attrs := []slog.Attr{slog.String("kind", string(e.Kind)), slog.String("actor", e.Actor)}
	if e.RunnerID != "" {
		attrs = append(attrs, slog.String("runner", e.RunnerID))
	}
	if e.JobID != 0 {
		attrs = append(attrs, slog.Int64("job", e.JobID))
	}
	if e.ProjectID != 0 {
		attrs = append(attrs, slog.Int64("project", e.ProjectID))
	}
	if e.Kind == firerunner.EventMoved {
		attrs = append(attrs, slog.String("from", e.From.String()), slog.String("to", e.To.String()), slog.Duration("took", e.Took))
	}
	if e.Reason != "" {
		attrs = append(attrs, slog.String("reason", string(e.Reason)))
	}
	if e.Message != "" {
		attrs = append(attrs, slog.String("message", e.Message))
	}
	c.Logger.LogAttrs(context.Background(), level, msg, attrs...)
}

func demandStep(d firerunner.Demand) firerunner.Step {
	return firerunner.Step{Kind: firerunner.StepDemand, ProjectID: d.ProjectID, Tags: d.Tags}
}

// keyedLock lets one goroutine at a time work on one runner. It is an optimisation: the store's version check is what
// keeps two from both winning.
type keyedLock struct {
	mu   sync.Mutex
	held map[string]bool // true: somebody else came meanwhile
}

// take takes the lock, or lets whoever has it know that there is more to do.
func (l *keyedLock) take(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = map[string]bool{}
	}
	_, held := l.held[key]
	l.held[key] = held
	return !held
}

// leave gives the lock back, unless somebody came meanwhile: then there is more to do first.
func (l *keyedLock) leave(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[key] {
		l.held[key] = false
		return false
	}
	delete(l.held, key)
	return true
}

// drop gives the lock back whoever came.
func (l *keyedLock) drop(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, key)
}

// broadcast wakes everybody who waits for a change of the store by this process.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

// next returns a channel that is closed at the next change. Take it before looking, so that no change is missed.
func (b *broadcast) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) send() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
