package queue_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/queue"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// open returns a store with its enqueuer, on a new file.
func open(t testing.TB, change ...func(*sqlite.Config)) (*sqlite.Store, *queue.Enqueuer) {
	t.Helper()
	enqueuer, err := queue.NewEnqueuer()
	require.NoError(t, err)
	config := sqlite.Config{
		Path: filepath.Join(t.TempDir(), "store.db"), Enqueue: enqueuer.Enqueue, Enqueued: enqueuer.Wake,
		Migrate: []func(context.Context, *sql.DB) error{queue.Migrate}, Logger: discard(),
	}
	for _, c := range change {
		c(&config)
	}
	store, err := sqlite.Open(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store, enqueuer
}

// steps does do for every kind.
func steps(do firerunner.StepFunc) map[firerunner.StepKind]firerunner.StepFunc {
	all := map[firerunner.StepKind]firerunner.StepFunc{}
	for _, kind := range queue.Kinds() {
		all[kind] = do
	}
	return all
}

func stop(t testing.TB, q *queue.Queue) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(t, q.Stop(ctx))
}

// start starts a queue and stops it at the end of the test.
func start(t testing.TB, config queue.Config) *queue.Queue {
	t.Helper()
	if config.Logger == nil {
		config.Logger = discard()
	}
	q, err := queue.New(config)
	require.NoError(t, err)
	require.NoError(t, q.Start(t.Context()))
	t.Cleanup(func() { stop(t, q) })
	return q
}

func enqueue(t testing.TB, store *sqlite.Store, all ...firerunner.Step) {
	t.Helper()
	require.NoError(t, store.Update(context.Background(), func(tx firerunner.Tx) error {
		for _, s := range all {
			if err := tx.Enqueue(context.Background(), s); err != nil {
				return err
			}
		}
		return nil
	}))
}

func receive[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(30 * time.Second):
		require.FailNow(t, "nothing came within 30 s")
		panic("unreachable")
	}
}

func rows(t testing.TB, store *sqlite.Store, where string) (n int) {
	t.Helper()
	require.NoError(t, store.DB().QueryRowContext(context.Background(), "SELECT count(*) FROM river_job WHERE "+where).Scan(&n))
	return n
}

func TestQueueOK(t *testing.T) {
	t.Parallel()
	store, enqueuer := open(t)
	ran := make(chan firerunner.Step, 10)
	type result struct {
		step firerunner.Step
		err  error
	}
	reported := make(chan result, 10)
	q := start(t, queue.Config{
		DB: store.DB(), Enqueuer: enqueuer, Sole: true,
		Steps: steps(func(_ context.Context, s firerunner.Step) error { ran <- s; return nil }),
		Ran:   func(s firerunner.Step, _ time.Duration, err error) { reported <- result{s, err} },
	})
	for _, want := range []firerunner.Step{
		{Kind: firerunner.StepReadJob, ProjectID: 7, JobID: 1 << 50},
		{Kind: firerunner.StepDemand, ProjectID: 7, Tags: "a,b"},
		{Kind: firerunner.StepPlace},
		{Kind: firerunner.StepAdvance, RunnerID: "runner1"},
	} {
		enqueue(t, store, want)
		require.Equal(t, want, receive(t, ran))
		require.Equal(t, result{want, nil}, receive(t, reported))
	}
	require.NoError(t, q.Ping(t.Context()))
	require.Eventually(t, func() bool { return rows(t, store, "state = 'completed'") == 4 }, 30*time.Second, 10*time.Millisecond)
	depth, err := q.Depth(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[firerunner.StepKind]int{"read_job": 0, "demand": 0, "place": 0, "advance": 0}, depth)
	require.Equal(t, firerunner.Conflict, firerunner.CodeOf(q.Start(t.Context())))
}

// TestEnqueueUndone: a step of a transaction that fails never runs.
func TestEnqueueUndone(t *testing.T) {
	t.Parallel()
	store, enqueuer := open(t)
	ran := make(chan firerunner.Step, 10)
	start(t, queue.Config{DB: store.DB(), Enqueuer: enqueuer, Steps: steps(func(_ context.Context, s firerunner.Step) error { ran <- s; return nil })})
	onPurpose := errors.New("on purpose")
	require.ErrorIs(t, store.Update(t.Context(), func(tx firerunner.Tx) error {
		return errors.Join(tx.Enqueue(t.Context(), firerunner.Step{Kind: firerunner.StepAdvance, RunnerID: "undone"}), onPurpose)
	}), onPurpose)
	enqueue(t, store, firerunner.Step{Kind: firerunner.StepAdvance, RunnerID: "kept"})
	require.Equal(t, "kept", receive(t, ran).RunnerID)
	require.Equal(t, 1, rows(t, store, "true"))
}

func TestQueueErr(t *testing.T) {
	t.Parallel()
	store, enqueuer := open(t)
	nothing := func(context.Context, firerunner.Step) error { return nil }
	missing, more := steps(nothing), steps(nothing)
	delete(missing, firerunner.StepPlace)
	more["dance"] = nothing
	for name, config := range map[string]queue.Config{
		"no database": {Enqueuer: enqueuer, Steps: steps(nothing)},
		"no enqueuer": {DB: store.DB(), Steps: steps(nothing)},
		"no steps":    {DB: store.DB(), Enqueuer: enqueuer},
		"one missing": {DB: store.DB(), Enqueuer: enqueuer, Steps: missing},
		"an unknown":  {DB: store.DB(), Enqueuer: enqueuer, Steps: more},
	} {
		_, err := queue.New(config)
		require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err), name)
	}
	err := store.Update(t.Context(), func(tx firerunner.Tx) error {
		return tx.Enqueue(t.Context(), firerunner.Step{Kind: "dance"})
	})
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))

	q, err := queue.New(queue.Config{DB: store.DB(), Enqueuer: enqueuer, Steps: steps(nothing)})
	require.NoError(t, err)
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(q.Ping(t.Context())))
	require.NoError(t, q.Stop(t.Context()), "stopping what was not started is nothing")
	ended, end := context.WithCancel(t.Context())
	end()
	_, err = q.Depth(ended)
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
}

// TestStepErr: failures and panics are tried again until it works.
func TestStepErr(t *testing.T) {
	t.Parallel()
	store, enqueuer := open(t)
	var mu sync.Mutex
	runs := 0
	reported := make(chan error, 10)
	start(t, queue.Config{
		DB: store.DB(), Enqueuer: enqueuer,
		Steps: steps(func(context.Context, firerunner.Step) error {
			mu.Lock()
			defer mu.Unlock()
			switch runs++; runs {
			case 1:
				return errors.New("on purpose")
			case 2:
				panic("on purpose")
			}
			return nil
		}),
		Ran: func(_ firerunner.Step, _ time.Duration, err error) { reported <- err },
	})
	enqueue(t, store, firerunner.Step{Kind: firerunner.StepPlace})
	require.ErrorContains(t, receive(t, reported), "on purpose")
	err := receive(t, reported)
	require.ErrorContains(t, err, "panicked")
	require.Equal(t, firerunner.Internal, firerunner.CodeOf(err))
	require.NoError(t, receive(t, reported))
}

// TestStepNeverGivenUp: a step that failed more often than River remembers is put off, not dropped.
func TestStepNeverGivenUp(t *testing.T) {
	t.Parallel()
	store, enqueuer := open(t)
	enqueue(t, store, firerunner.Step{Kind: firerunner.StepPlace})
	_, err := store.DB().ExecContext(t.Context(), "UPDATE river_job SET attempt = 500")
	require.NoError(t, err)
	ran := make(chan struct{}, 10)
	start(t, queue.Config{DB: store.DB(), Enqueuer: enqueuer, Steps: steps(func(context.Context, firerunner.Step) error {
		ran <- struct{}{}
		return errors.New("on purpose")
	})})
	receive(t, ran)
	require.Eventually(t, func() bool {
		return rows(t, store, "state IN ('available', 'scheduled') AND attempt = 500 AND errors IS NULL AND scheduled_at > datetime('now', '+20 seconds', 'subsec')") == 1
	}, 30*time.Second, 10*time.Millisecond)
}

// TestStepLater: a step that asks for another run gets it, at about the time asked for, and it is no failure.
func TestStepLater(t *testing.T) {
	t.Parallel()
	store, enqueuer := open(t)
	ran := make(chan time.Time, 10)
	first := true
	start(t, queue.Config{DB: store.DB(), Enqueuer: enqueuer, Steps: steps(func(context.Context, firerunner.Step) error {
		ran <- time.Now()
		if first {
			first = false
			return firerunner.Later(300*time.Millisecond, "not yet")
		}
		return nil
	})})
	enqueue(t, store, firerunner.Step{Kind: firerunner.StepPlace})
	began := receive(t, ran)
	again := receive(t, ran)
	require.GreaterOrEqual(t, again.Sub(began), 299*time.Millisecond)
	require.Less(t, again.Sub(began), 5*time.Second, "River's scheduler must not be waited for")
	require.Eventually(t, func() bool { return rows(t, store, "state = 'completed' AND attempt = 1 AND errors IS NULL") == 1 }, 30*time.Second, 10*time.Millisecond)
}

// TestStepNotBefore: a step for later runs then; one for now overtakes it.
func TestStepNotBefore(t *testing.T) {
	t.Parallel()
	store, enqueuer := open(t)
	type run struct {
		step firerunner.Step
		at   time.Time
	}
	ran := make(chan run, 10)
	start(t, queue.Config{DB: store.DB(), Enqueuer: enqueuer, Steps: steps(func(_ context.Context, s firerunner.Step) error {
		ran <- run{s, time.Now()}
		return nil
	})})
	due := time.Now().Add(700 * time.Millisecond)
	enqueue(t, store, firerunner.Step{Kind: firerunner.StepAdvance, RunnerID: "later", NotBefore: due}, firerunner.Step{Kind: firerunner.StepAdvance, RunnerID: "now"})
	require.Equal(t, "now", receive(t, ran).step.RunnerID)
	later := receive(t, ran)
	require.Equal(t, "later", later.step.RunnerID)
	require.False(t, later.at.Before(due.Truncate(time.Millisecond)))
	require.Less(t, later.at.Sub(due), 4*time.Second)
}

// TestStepTimeout: a step's context ends in time, and the step is tried again.
func TestStepTimeout(t *testing.T) {
	t.Parallel()
	store, enqueuer := open(t)
	reported := make(chan error, 10)
	start(t, queue.Config{
		DB: store.DB(), Enqueuer: enqueuer, Timeout: map[firerunner.StepKind]time.Duration{firerunner.StepPlace: 50 * time.Millisecond},
		Steps: steps(func(ctx context.Context, s firerunner.Step) error {
			deadline, ok := ctx.Deadline()
			if s.Kind == firerunner.StepAdvance {
				if !ok || time.Until(deadline) < time.Minute {
					return fmt.Errorf("deadline in %s", time.Until(deadline))
				}
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}),
		Ran: func(_ firerunner.Step, _ time.Duration, err error) { reported <- err },
	})
	enqueue(t, store, firerunner.Step{Kind: firerunner.StepAdvance})
	require.NoError(t, receive(t, reported))
	enqueue(t, store, firerunner.Step{Kind: firerunner.StepPlace})
	require.ErrorIs(t, receive(t, reported), context.DeadlineExceeded)
	require.ErrorIs(t, receive(t, reported), context.DeadlineExceeded)
}
