package queue

import (
	"context"
	"database/sql"
	"slices"
	"sync"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riversqlite"
)

// bell wakes the queue of this process. Ringing it twice before it is heard is ringing it once.
type bell struct {
	rung chan struct{}

	mu    sync.Mutex
	heard []string // River's names of the queues whose steps are begun here
	due   []string // those of them that it was rung for, and that were not told
}

func newBell() *bell { return &bell{rung: make(chan struct{}, 1)} }

// ring rings for the queues that something became due in; without a name for all.
func (b *bell) ring(names ...string) {
	b.mu.Lock()
	if len(names) == 0 {
		names = b.heard
	}
	for _, name := range names {
		if slices.Contains(b.heard, name) && !slices.Contains(b.due, name) {
			b.due = append(b.due, name)
		}
	}
	news := len(b.due) > 0
	b.mu.Unlock()
	if !news {
		return
	}
	select {
	case b.rung <- struct{}{}:
	default:
	}
}

// hear adds queues that are looked at when it rings.
func (b *bell) hear(queues ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range queues {
		if !slices.Contains(b.heard, name) {
			b.heard = append(b.heard, name)
		}
	}
}

func (b *bell) unhear(queue string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.heard = slices.DeleteFunc(b.heard, func(name string) bool { return name == queue })
}

// take returns the queues that are to be told.
func (b *bell) take() (due []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	due, b.due = b.due, nil
	return due
}

// driver is River's own for SQLite, except for how news gets about. That one writes a row for each piece of news and
// reads the table every 50 ms. Here the process that enqueues is the one that runs the steps, so a channel does, at once
// and without a write.
type driver struct {
	*riversqlite.Driver
	bell *bell
}

func newDriver(db *sql.DB, b *bell) *driver { return &driver{Driver: riversqlite.New(db), bell: b} }

// SupportsListenNotify is false: no rows of news are written.
func (d *driver) SupportsListenNotify() bool { return false }

// GetListener returns the listener that hears the bell.
func (d *driver) GetListener(params *riverdriver.GetListenenerParams) riverdriver.Listener {
	return &listener{bell: d.bell, schema: params.Schema}
}

// listener turns the bell into River's news that a job was inserted, one piece for each queue.
type listener struct {
	bell   *bell
	schema string
	next   []string // queues that have not been told yet; only WaitForNotification, which is called by one goroutine, uses it
}

const insertTopic = "river_insert" // River's internal/notifier.NotificationTopicInsert

func (l *listener) WaitForNotification(ctx context.Context) (*riverdriver.Notification, error) {
	for len(l.next) == 0 {
		select {
		case <-l.bell.rung:
			l.next = l.bell.take()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	queue := l.next[0]
	l.next = l.next[1:]
	return &riverdriver.Notification{Topic: insertTopic, Payload: `{"queue":"` + queue + `"}`}, nil
}

func (l *listener) Close(context.Context) error            { return nil }
func (l *listener) Connect(context.Context) error          { return nil }
func (l *listener) Listen(context.Context, string) error   { return nil }
func (l *listener) Unlisten(context.Context, string) error { return nil }
func (l *listener) Ping(context.Context) error             { return nil }
func (l *listener) Schema() string                         { return l.schema }
func (l *listener) SetAfterConnectExec(string)             {}

var _ riverdriver.Driver[*sql.Tx] = (*driver)(nil)
