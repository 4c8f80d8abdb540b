package queue

import (
	"context"
	"database/sql"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riversqlite"
)

// bell wakes the queue of this process. Ringing it twice before it is heard is ringing it once.
type bell struct{ rung chan struct{} }

func newBell() *bell { return &bell{rung: make(chan struct{}, 1)} }

func (b *bell) ring() {
	select {
	case b.rung <- struct{}{}:
	default:
	}
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

// listener turns the bell into River's news that a job was inserted.
type listener struct {
	bell   *bell
	schema string
}

const (
	insertTopic   = "river_insert" // River's internal/notifier.NotificationTopicInsert
	insertPayload = `{"queue":"` + river.QueueDefault + `"}`
)

func (l *listener) WaitForNotification(ctx context.Context) (*riverdriver.Notification, error) {
	select {
	case <-l.bell.rung:
		return &riverdriver.Notification{Topic: insertTopic, Payload: insertPayload}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *listener) Close(context.Context) error            { return nil }
func (l *listener) Connect(context.Context) error          { return nil }
func (l *listener) Listen(context.Context, string) error   { return nil }
func (l *listener) Unlisten(context.Context, string) error { return nil }
func (l *listener) Ping(context.Context) error             { return nil }
func (l *listener) Schema() string                         { return l.schema }
func (l *listener) SetAfterConnectExec(string)             {}

var _ riverdriver.Driver[*sql.Tx] = (*driver)(nil)
