package queue_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/queue"
)

// TestStopSoft: a step that runs may finish.
func TestStopSoft(t *testing.T) {
	t.Parallel()
	store, enqueuer := open(t)
	ran, release := make(chan struct{}, 10), make(chan struct{})
	q, err := queue.New(queue.Config{DB: store.DB(), Enqueuer: enqueuer, Logger: discard(), Steps: steps(func(ctx context.Context, _ firerunner.Step) error {
		ran <- struct{}{}
		<-release
		return ctx.Err()
	})})
	require.NoError(t, err)
	starting, cancel := context.WithCancel(t.Context())
	require.NoError(t, q.Start(starting))
	cancel() // bounds the start only
	enqueue(t, store, firerunner.Step{Kind: firerunner.StepPlace})
	receive(t, ran)
	stopped := make(chan error)
	go func() { stopped <- q.Stop(context.Background()) }()
	enqueue(t, store, firerunner.Step{Kind: firerunner.StepAdvance})
	close(release)
	require.NoError(t, receive(t, stopped))
	require.Equal(t, 1, rows(t, store, "kind = 'place' AND state = 'completed'"))
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(q.Ping(t.Context())))
	require.NoError(t, q.Stop(t.Context()), "twice is no error")
}

// TestStopHard: a step that does not finish in time is ended, and runs again after the next start.
func TestStopHard(t *testing.T) {
	t.Parallel()
	store, enqueuer := open(t)
	ran := make(chan struct{}, 10)
	config := queue.Config{DB: store.DB(), Enqueuer: enqueuer, Sole: true, Logger: discard(), Steps: steps(func(ctx context.Context, _ firerunner.Step) error {
		ran <- struct{}{}
		<-ctx.Done()
		return firerunner.Errorf(firerunner.Unavailable, "wait: %w", ctx.Err())
	})}
	q, err := queue.New(config)
	require.NoError(t, err)
	require.NoError(t, q.Start(t.Context()))
	enqueue(t, store, firerunner.Step{Kind: firerunner.StepPlace})
	receive(t, ran)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.NoError(t, q.Stop(ctx))
	require.Equal(t, 1, rows(t, store, "state = 'available' AND attempt = 0"))

	again := make(chan struct{}, 10)
	config.Steps = steps(func(context.Context, firerunner.Step) error { again <- struct{}{}; return nil })
	start(t, config)
	receive(t, again)
}

// TestStartAfterCrash: what a dead process was running is taken back at once by the only one that serves.
func TestStartAfterCrash(t *testing.T) {
	t.Parallel()
	store, enqueuer := open(t)
	enqueue(t, store, firerunner.Step{Kind: firerunner.StepPlace}, firerunner.Step{Kind: firerunner.StepAdvance, RunnerID: "a"})
	_, err := store.DB().ExecContext(t.Context(), `UPDATE river_job SET state = 'running', attempt = 1, attempted_at = datetime('now', 'subsec'),
		attempted_by = jsonb('["dead"]')`)
	require.NoError(t, err)
	_, err = store.DB().ExecContext(t.Context(), `INSERT INTO river_leader (elected_at, expires_at, leader_id, name)
		VALUES (datetime('now', 'subsec'), datetime('now', '+1 day', 'subsec'), 'dead', 'default')`)
	require.NoError(t, err)
	ran := make(chan firerunner.StepKind, 10)
	start(t, queue.Config{DB: store.DB(), Enqueuer: enqueuer, Sole: true, Steps: steps(func(_ context.Context, s firerunner.Step) error {
		ran <- s.Kind
		return nil
	})})
	require.ElementsMatch(t, []firerunner.StepKind{firerunner.StepPlace, firerunner.StepAdvance}, []firerunner.StepKind{receive(t, ran), receive(t, ran)})
	require.Eventually(t, func() bool {
		var leader string
		err := store.DB().QueryRowContext(t.Context(), "SELECT leader_id FROM river_leader").Scan(&leader)
		return err == nil && leader != "dead"
	}, 30*time.Second, 10*time.Millisecond)
}

// TestStartErr: a queue whose tables are gone does not start.
func TestStartErr(t *testing.T) {
	t.Parallel()
	store, enqueuer := open(t)
	config := queue.Config{DB: store.DB(), Enqueuer: enqueuer, Sole: true, Logger: discard(), Steps: steps(func(context.Context, firerunner.Step) error { return errors.New("never") })}
	_, err := store.DB().ExecContext(t.Context(), "DROP TABLE river_job")
	require.NoError(t, err)
	q, err := queue.New(config)
	require.NoError(t, err)
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(q.Start(t.Context())))
	_, err = q.Depth(t.Context())
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
}
