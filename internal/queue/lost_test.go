package queue_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/queue"
)

// TestLost: steps that count as running and are not, because the database did not take their end, run again; one that
// really runs is left alone.
func TestLost(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) (firerunner.Store, queue.Config, func(statement string)){
		"SQLite": func(t *testing.T) (firerunner.Store, queue.Config, func(string)) {
			store, enqueuer := open(t)
			return store, queue.Config{DB: store.DB(), Enqueuer: enqueuer, Sole: true}, func(statement string) {
				_, err := store.DB().ExecContext(t.Context(), statement)
				require.NoError(t, err)
			}
		},
		"PostgreSQL": func(t *testing.T) (firerunner.Store, queue.Config, func(string)) {
			store, enqueuer := openPostgres(t, postgresURL(t))
			return store, queue.Config{Pool: store.Pool(), Enqueuer: enqueuer, Controller: "a"}, func(statement string) {
				_, err := store.Pool().Exec(t.Context(), statement)
				require.NoError(t, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, config, exec := open(t)
			ran, release := make(chan string, 10), make(chan struct{})
			config.Steps = steps(func(_ context.Context, s firerunner.Step) error {
				ran <- s.RunnerID
				if s.RunnerID == "long" {
					<-release
				}
				return nil
			})
			q := start(t, config)
			defer close(release)
			enqueueAll(t, store, firerunner.Step{Kind: firerunner.StepAdvance, RunnerID: "long"}, firerunner.Step{Kind: firerunner.StepAdvance, RunnerID: "short"})
			require.ElementsMatch(t, []string{"long", "short"}, []string{receive(t, ran), receive(t, ran)})
			require.Eventually(t, func() bool { // its end is written
				depth, err := q.Depth(t.Context())
				require.NoError(t, err)
				return depth[firerunner.StepAdvance] == 1
			}, 30*time.Second, 5*time.Millisecond)
			exec(`UPDATE river_job SET state = 'running', finalized_at = NULL WHERE state = 'completed'`)
			n, err := q.FindLostOnce(t.Context())
			require.NoError(t, err)
			require.Equal(t, 1, n)
			require.Equal(t, "short", receive(t, ran))
		})
	}
}
