package queue_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/queue"
)

func advance(runner, controller string) firerunner.Step {
	return firerunner.Step{Kind: firerunner.StepAdvance, RunnerID: runner, Controller: controller}
}

// TestControllers: a step that names a controller is begun by who serves it, and by nobody else.
func TestControllers(t *testing.T) {
	t.Parallel()
	url := postgresURL(t)
	store, enqueuerA := openPostgres(t, url)
	other, enqueuerB := openPostgres(t, url)
	onA, onB := make(chan string, 100), make(chan string, 100)
	hold := make(chan struct{})
	a := start(t, queue.Config{
		Pool: store.Pool(), Enqueuer: enqueuerA, Controller: "a",
		Steps: steps(func(_ context.Context, s firerunner.Step) error {
			onA <- s.RunnerID
			if s.RunnerID == "held" {
				<-hold
			}
			return nil
		}),
	})
	enqueueAll(t, store, advance("b's", "b"), advance("a's", "a"))
	require.Equal(t, "a's", receive(t, onA), "though b's has waited longer")

	// What b was running when it died is begun by who stands in for it, and so is what waits for it.
	enqueueAll(t, store, advance("b's running", "b"))
	_, err := store.Pool().Exec(t.Context(), `UPDATE river_job SET state = 'running', attempt = 1, attempted_at = now(), attempted_by = '{firerunner/b}'
		WHERE args::text LIKE '%b''s running%'`)
	require.NoError(t, err)
	require.Equal(t, 1, postgresRows(t, store, "state = 'running' AND '{firerunner/b}' = attempted_by"))
	require.NoError(t, a.Serve(t.Context(), "b"))
	require.NoError(t, a.Serve(t.Context(), "b"), "twice is once")
	require.ElementsMatch(t, []string{"b's", "b's running"}, []string{receive(t, onA), receive(t, onA)})

	// It is left when the last step for it has returned, and not before.
	enqueueAll(t, store, advance("held", "b"))
	require.Equal(t, "held", receive(t, onA))
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(a.Leave(short, "b")))
	close(hold)
	require.NoError(t, a.Leave(t.Context(), "b"), "another call waits again")
	require.NoError(t, a.Leave(t.Context(), "b"), "it is left already")

	enqueueAll(t, store, advance("b's own", "b"), advance("a's own", "a"))
	require.Equal(t, "a's own", receive(t, onA))
	start(t, queue.Config{
		Pool: other.Pool(), Enqueuer: enqueuerB, Controller: "b",
		Steps: steps(func(_ context.Context, s firerunner.Step) error { onB <- s.RunnerID; return nil }),
	})
	require.Equal(t, "b's own", receive(t, onB))
	require.Empty(t, onA)
}
