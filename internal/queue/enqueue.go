package queue

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/firerunner/firerunner"
)

// Enqueuer adds steps within transactions of the store. It needs no database of its own, so that it can be there before
// the store is opened; and it tells the Queue of the same process when something is due.
type Enqueuer struct {
	client *river.Client[*sql.Tx]
	bell   *bell
	now    func() time.Time
}

// NewEnqueuer returns an Enqueuer, for either database. Give its Enqueue (EnqueuePostgres) and Wake to the store, and itself to New.
func NewEnqueuer() (*Enqueuer, error) {
	e := &Enqueuer{bell: newBell(), now: time.Now}
	client, err := river.NewClient(newDriver(nil, e.bell), &river.Config{
		MaxAttempts: maxAttempts,
		Logger:      slog.New(slog.DiscardHandler),
		Hooks:       []rivertype.Hook{river.HookInsertBeginFunc(dueWithoutScheduler)},
	})
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Internal, "new enqueuer: %w", err)
	}
	e.client = client
	return e, nil
}

// dueWithoutScheduler inserts a step for later as one that is available from its time on. River would mark it scheduled
// and look for such rows every 5 s only, so that a step for one second from now could be four seconds late.
func dueWithoutScheduler(_ context.Context, params *rivertype.JobInsertParams) error {
	if params.State == rivertype.JobStateScheduled {
		params.State = rivertype.JobStateAvailable
	}
	return nil
}

// args is a step as River stores it: JSON.
type args struct{ firerunner.Step }

// Kind is River's name of the job: ours of the step.
func (a args) Kind() string { return string(a.Step.Kind) }

func known(kind firerunner.StepKind) bool { return slices.Contains(Kinds(), kind) }

// Enqueue adds a step within tx; it is due when tx commits. A step that would do the same at about the same time as one
// that waits already is not added. It fails with Invalid for an unknown kind.
func (e *Enqueuer) Enqueue(ctx context.Context, tx *sql.Tx, step firerunner.Step) error {
	if !known(step.Kind) {
		return firerunner.Errorf(firerunner.Invalid, "enqueue: there is no step %q", step.Kind)
	}
	waits, err := e.waits(ctx, tx, step)
	if err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "enqueue step %s: look for the same: %w", step.Kind, err)
	}
	if waits {
		return nil
	}
	if _, err := e.client.InsertTx(ctx, tx, args{step}, &river.InsertOpts{ScheduledAt: step.NotBefore, Queue: controllerQueue(step.Controller)}); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "enqueue step %s: %w", step.Kind, err)
	}
	return nil
}

// mergeWithin is how much later than asked a step may run when it is merged with one that waits.
const mergeWithin = time.Second

// waits reports whether the same step is there already and has not begun. It loses no wake-up: tx holds the one lock
// for writing, and a step is begun by writing, so one that has not begun now begins after tx has committed and sees
// what it wrote. River's own uniqueness cannot be used: it insists on counting a step that runs as the same, and
// that one may have looked before tx wrote.
func (e *Enqueuer) waits(ctx context.Context, tx *sql.Tx, step firerunner.Step) (bool, error) {
	text, err := json.Marshal(args{step})
	if err != nil {
		return false, err
	}
	from, to := "", riverTime(e.now().Add(time.Millisecond)) // River rounds, also up
	if !step.NotBefore.IsZero() {
		from, to = riverTime(step.NotBefore), riverTime(step.NotBefore.Add(mergeWithin))
	}
	var one int
	err = tx.QueryRowContext(ctx, `SELECT 1 FROM river_job
		WHERE kind = ? AND args = jsonb(?) AND state = 'available' AND scheduled_at >= ? AND scheduled_at <= ? LIMIT 1`,
		string(step.Kind), string(text), from, to).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// riverTime writes a time as River does on SQLite, where times are compared as text.
func riverTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000") }

// Wake tells the queue of this process that steps have become due. The store calls it after a commit.
func (e *Enqueuer) Wake(steps []firerunner.Step) {
	var names []string
	for _, s := range steps {
		if name := controllerQueue(s.Controller); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	e.bell.ring(names...)
}
