package queue_test

import (
	"context"
	"database/sql"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/queue"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns a store with its enqueuer, on a new file.
func open(t testing.TB, change ...func(*sqlite.Config)) (*sqlite.Store, *queue.Enqueuer) {
	t.Helper()
	enqueuer, err := queue.NewEnqueuer()
	require.NoError(t, err)
	config := sqlite.Config{
		Path: filepath.Join(t.TempDir(), "store.db"), Enqueue: enqueuer.Enqueue, Enqueued: enqueuer.Wake,
		Migrate: []func(context.Context, *sql.DB) error{queue.Migrate},
		Logger:  slog.New(slog.DiscardHandler),
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

// start starts a queue and stops it at the end of the test.
func start(t testing.TB, config queue.Config) *queue.Queue {
	t.Helper()
	q, err := queue.New(config)
	require.NoError(t, err)
	require.NoError(t, q.Start(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, q.Stop(ctx))
	})
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
	case <-time.After(20 * time.Second):
		require.FailNow(t, "nothing came within 20 s")
		panic("unreachable")
	}
}

func TestQueueOK(t *testing.T) {
	store, enqueuer := open(t)
	ran := make(chan firerunner.Step, 10)
	q := start(t, queue.Config{DB: store.DB(), Enqueuer: enqueuer, Sole: true, Steps: steps(func(_ context.Context, s firerunner.Step) error {
		ran <- s
		return nil
	})})
	want := firerunner.Step{Kind: firerunner.StepDemand, ProjectID: 7, Tags: "a,b"}
	enqueue(t, store, want)
	require.Equal(t, want, receive(t, ran))
	require.NoError(t, q.Ping(t.Context()))
}
