package queue_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/queue"
	"github.com/firerunner/firerunner/internal/store/postgres"
	"github.com/firerunner/firerunner/internal/store/postgrestest"
)

// postgresURL is a new database with all tables in it.
func postgresURL(t testing.TB) firerunner.Secret {
	return firerunner.Secret(postgrestest.Copy(t, "queue", func(url string) error {
		store, err := postgres.Open(context.Background(), postgres.Config{
			URL: firerunner.Secret(url), Logger: discard(), Migrate: []func(context.Context, *pgxpool.Pool) error{queue.MigratePostgres},
		})
		if err != nil {
			return err
		}
		return store.Close()
	}))
}

// openPostgres returns a store with its enqueuer, as one process of several has them.
func openPostgres(t testing.TB, url firerunner.Secret) (*postgres.Store, *queue.Enqueuer) {
	t.Helper()
	enqueuer, err := queue.NewEnqueuer()
	require.NoError(t, err)
	store, err := postgres.Open(t.Context(), postgres.Config{
		URL: url, Enqueue: enqueuer.EnqueuePostgres, Enqueued: enqueuer.Wake, Logger: discard(),
		Migrate: []func(context.Context, *pgxpool.Pool) error{queue.MigratePostgres},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store, enqueuer
}

func enqueueAll(t testing.TB, store firerunner.Store, all ...firerunner.Step) {
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

func postgresRows(t testing.TB, store *postgres.Store, where string) (n int) {
	t.Helper()
	require.NoError(t, store.Pool().QueryRow(context.Background(), "SELECT count(*) FROM river_job WHERE "+where).Scan(&n))
	return n
}

func TestPostgresOK(t *testing.T) {
	t.Parallel()
	store, enqueuer := openPostgres(t, postgresURL(t))
	ran := make(chan firerunner.Step, 10)
	q := start(t, queue.Config{
		Pool: store.Pool(), Enqueuer: enqueuer, Sole: true,
		Steps: steps(func(_ context.Context, s firerunner.Step) error { ran <- s; return nil }),
	})
	for _, want := range []firerunner.Step{
		{Kind: firerunner.StepReadJob, ProjectID: 7, JobID: 1 << 50},
		{Kind: firerunner.StepDemand, ProjectID: 7, Tags: firerunner.TagSet(strings.Repeat("long,", 2000))}, // beyond what an index entry holds
		{Kind: firerunner.StepPlace},
	} {
		enqueueAll(t, store, want)
		require.Equal(t, want, receive(t, ran))
	}
	require.NoError(t, q.Ping(t.Context()))
	require.Eventually(t, func() bool { return postgresRows(t, store, "state = 'completed'") == 3 }, 30*time.Second, 10*time.Millisecond)

	onPurpose := errors.New("on purpose")
	require.ErrorIs(t, store.Update(t.Context(), func(tx firerunner.Tx) error {
		return errors.Join(tx.Enqueue(t.Context(), firerunner.Step{Kind: firerunner.StepAdvance, RunnerID: "undone"}), onPurpose)
	}), onPurpose)
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(store.Update(t.Context(), func(tx firerunner.Tx) error {
		return tx.Enqueue(t.Context(), firerunner.Step{Kind: "dance"})
	})))
	due := time.Now().Add(400 * time.Millisecond)
	enqueueAll(t, store, firerunner.Step{Kind: firerunner.StepAdvance, RunnerID: "later", NotBefore: due}, firerunner.Step{Kind: firerunner.StepAdvance, RunnerID: "now"})
	require.Equal(t, "now", receive(t, ran).RunnerID)
	require.Equal(t, "later", receive(t, ran).RunnerID)
	require.False(t, time.Now().Before(due.Truncate(time.Millisecond)))
	depth, err := q.Depth(t.Context())
	require.NoError(t, err)
	require.Zero(t, depth[firerunner.StepDemand])
}

// TestPostgresMerge: the same step waits once only; what differs, and what is for another time, is another step.
func TestPostgresMerge(t *testing.T) {
	t.Parallel()
	store, enqueuer := openPostgres(t, postgresURL(t))
	soon := time.Now().Add(time.Hour)
	place, other := firerunner.Step{Kind: firerunner.StepPlace}, firerunner.Step{Kind: firerunner.StepDemand, ProjectID: 1, Tags: "a"}
	later, sooner := place, place
	later.NotBefore, sooner.NotBefore = soon, soon.Add(-500*time.Millisecond)
	enqueueAll(t, store, place, other, place)
	enqueueAll(t, store, place, later, later, sooner)
	require.Equal(t, 3, postgresRows(t, store, "true"))
	q, err := queue.New(queue.Config{Pool: store.Pool(), Enqueuer: enqueuer, Steps: steps(func(context.Context, firerunner.Step) error { return nil })})
	require.NoError(t, err)
	depth, err := q.Depth(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[firerunner.StepKind]int{"read_job": 0, "demand": 1, "place": 2, "advance": 0}, depth)

	var pending []firerunner.Step
	require.NoError(t, pgx.BeginFunc(t.Context(), store.Pool(), func(tx pgx.Tx) error {
		return queue.PendingInPostgres(t.Context(), tx, func(s firerunner.Step) error { pending = append(pending, s); return nil })
	}))
	require.Len(t, pending, 3)
	require.Equal(t, other.Tags, pending[1].Tags)
	require.WithinDuration(t, soon, pending[2].NotBefore, time.Millisecond)
}

// TestPostgresMergeLosesNoWakeup: two processes write, enqueue and run steps: whatever is written before a step is enqueued
// is seen by a run of it that begins later, in whichever process.
func TestPostgresMergeLosesNoWakeup(t *testing.T) {
	t.Parallel()
	url := postgresURL(t)
	const processes, runners, times = 2, 2, 40
	var mu sync.Mutex
	highest := map[string]int64{}
	names := []string{"a", "b"}
	var stores []*postgres.Store
	for range processes {
		store, enqueuer := openPostgres(t, url)
		stores = append(stores, store)
		start(t, queue.Config{Pool: store.Pool(), Enqueuer: enqueuer, Steps: steps(func(ctx context.Context, s firerunner.Step) error {
			r, err := store.Runner(ctx, s.RunnerID)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			highest[r.ID] = max(highest[r.ID], r.Report)
			return nil
		})})
	}
	ctx := t.Context()
	require.NoError(t, stores[0].Update(ctx, func(tx firerunner.Tx) error {
		return errors.Join(tx.CreateRunner(ctx, firerunner.Runner{ID: "a", State: firerunner.Queued}), tx.CreateRunner(ctx, firerunner.Runner{ID: "b", State: firerunner.Queued}))
	}))
	var all sync.WaitGroup
	for i := range processes * runners {
		all.Go(func() {
			for range times {
				if err := stores[i%processes].Update(ctx, func(tx firerunner.Tx) error {
					r, err := tx.Runner(ctx, names[i/processes])
					if err != nil {
						return err
					}
					r.Report++
					if err := tx.SaveRunner(ctx, &r); err != nil {
						return err
					}
					return tx.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepAdvance, RunnerID: r.ID})
				}); err != nil {
					t.Errorf("update: %v", err)
				}
			}
		})
	}
	all.Wait()
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return highest["a"] == processes*times && highest["b"] == processes*times
	}, 30*time.Second, 10*time.Millisecond)
}

// TestPostgresMergeIsHeld: a step that was found waiting does not begin before the transaction that found it has ended.
func TestPostgresMergeIsHeld(t *testing.T) {
	t.Parallel()
	url := postgresURL(t)
	store, _ := openPostgres(t, url)
	other, enqueuer := openPostgres(t, url)
	place := firerunner.Step{Kind: firerunner.StepPlace}
	enqueueAll(t, store, place)
	ran := make(chan struct{}, 10)
	committed := make(chan struct{})
	require.NoError(t, store.Update(t.Context(), func(tx firerunner.Tx) error {
		if err := tx.Enqueue(t.Context(), place); err != nil {
			return err
		}
		if err := tx.AddEvent(t.Context(), firerunner.Event{}); err != nil {
			return err
		}
		if _, err := tx.Events(t.Context(), firerunner.EventQuery{}); err != nil { // sends what was put off
			return err
		}
		start(t, queue.Config{Pool: other.Pool(), Enqueuer: enqueuer, Steps: steps(func(context.Context, firerunner.Step) error {
			select {
			case <-committed:
			default:
				t.Error("the step began before the transaction that needs it had ended")
			}
			ran <- struct{}{}
			return nil
		})})
		enqueuer.Wake(nil)
		select {
		case <-ran: // it has been reported
		case <-time.After(300 * time.Millisecond): // more than a poll
		}
		close(committed)
		return nil
	}))
	receive(t, ran)
}

// TestPostgresStartAfterCrash: what a dead process was running is taken back at once by the only one that serves.
func TestPostgresStartAfterCrash(t *testing.T) {
	t.Parallel()
	store, enqueuer := openPostgres(t, postgresURL(t))
	enqueueAll(t, store, firerunner.Step{Kind: firerunner.StepPlace}, firerunner.Step{Kind: firerunner.StepAdvance, RunnerID: "a"})
	_, err := store.Pool().Exec(t.Context(), `UPDATE river_job SET state = 'running', attempt = 1, attempted_at = now(), attempted_by = '{dead}'`)
	require.NoError(t, err)
	ran := make(chan firerunner.StepKind, 10)
	start(t, queue.Config{Pool: store.Pool(), Enqueuer: enqueuer, Sole: true, Steps: steps(func(_ context.Context, s firerunner.Step) error {
		ran <- s.Kind
		return nil
	})})
	require.ElementsMatch(t, []firerunner.StepKind{firerunner.StepPlace, firerunner.StepAdvance}, []firerunner.StepKind{receive(t, ran), receive(t, ran)})
}
