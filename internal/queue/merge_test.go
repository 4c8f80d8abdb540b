package queue_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/queue"
)

// TestMerge: the same step waits once only; what differs, and what is for another time, does not count as the same.
func TestMerge(t *testing.T) {
	t.Parallel()
	store, enqueuer := open(t)
	soon := time.Now().Add(time.Hour)
	place, demand := firerunner.Step{Kind: firerunner.StepPlace}, firerunner.Step{Kind: firerunner.StepDemand, ProjectID: 1, Tags: "a"}
	enqueue(t, store, place, place, demand)
	enqueue(t, store, demand, place)
	require.Equal(t, 2, rows(t, store, "true"))
	other := demand
	other.Tags = "b"
	enqueue(t, store, other)
	require.Equal(t, 3, rows(t, store, "true"))

	later := place
	later.NotBefore = soon
	enqueue(t, store, later)
	require.Equal(t, 4, rows(t, store, "true"), "what runs now does not do for what is due in an hour")
	enqueue(t, store, place, later)
	require.Equal(t, 4, rows(t, store, "true"))
	later.NotBefore = soon.Add(-500 * time.Millisecond)
	enqueue(t, store, later)
	require.Equal(t, 4, rows(t, store, "true"), "half a second late will do")
	later.NotBefore = soon.Add(time.Minute)
	enqueue(t, store, later)
	require.Equal(t, 5, rows(t, store, "true"))

	q, err := queue.New(queue.Config{DB: store.DB(), Enqueuer: enqueuer, Steps: steps(func(context.Context, firerunner.Step) error { return nil })})
	require.NoError(t, err)
	depth, err := q.Depth(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[firerunner.StepKind]int{"read_job": 0, "demand": 2, "place": 3, "advance": 0}, depth)
	// The index must fit the question, or SQLite refuses to prepare this.
	_, err = store.DB().ExecContext(t.Context(), `SELECT 1 FROM river_job INDEXED BY firerunner_waiting_steps
		WHERE kind = 'place' AND args = jsonb('{}') AND state = 'available'`)
	require.NoError(t, err)
}

// TestMergeDuringRun: a step that comes while the same one runs is another one: the first may have looked already.
func TestMergeDuringRun(t *testing.T) {
	t.Parallel()
	store, enqueuer := open(t)
	ran, release := make(chan struct{}, 10), make(chan struct{})
	start(t, queue.Config{DB: store.DB(), Enqueuer: enqueuer, Steps: steps(func(context.Context, firerunner.Step) error {
		ran <- struct{}{}
		<-release
		return nil
	})})
	enqueue(t, store, firerunner.Step{Kind: firerunner.StepPlace})
	receive(t, ran)
	enqueue(t, store, firerunner.Step{Kind: firerunner.StepPlace})
	receive(t, ran)
	close(release)
}

// TestMergeLosesNoWakeup: whatever is written before a step is enqueued is seen by a run of it, however the two race.
func TestMergeLosesNoWakeup(t *testing.T) {
	t.Parallel()
	store, enqueuer := open(t)
	ctx := t.Context()
	var mu sync.Mutex
	highest := map[string]int64{}
	start(t, queue.Config{DB: store.DB(), Enqueuer: enqueuer, Steps: steps(func(ctx context.Context, s firerunner.Step) error {
		r, err := store.Runner(ctx, s.RunnerID)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		highest[r.ID] = max(highest[r.ID], r.Report)
		return nil
	})})
	const runners, writers, times = 3, 4, 25
	names := []string{"a", "b", "c"}
	require.NoError(t, store.Update(ctx, func(tx firerunner.Tx) error {
		for _, name := range names {
			if err := tx.CreateRunner(ctx, firerunner.Runner{ID: name, State: firerunner.Queued}); err != nil {
				return err
			}
		}
		return nil
	}))
	var all sync.WaitGroup
	for i := range runners * writers {
		all.Go(func() {
			for range times {
				if err := store.Update(ctx, func(tx firerunner.Tx) error {
					r, err := tx.Runner(ctx, names[i%runners])
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
		return highest["a"] == writers*times && highest["b"] == writers*times && highest["c"] == writers*times
	}, 30*time.Second, 10*time.Millisecond)
}
