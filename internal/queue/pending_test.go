package queue_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/queue"
)

// TestPending: all steps that are not done, those that run as due at once.
func TestPending(t *testing.T) {
	t.Parallel()
	store, _ := open(t)
	soon := time.Now().Add(time.Hour).Truncate(time.Millisecond).UTC()
	enqueue(t, store, firerunner.Step{Kind: firerunner.StepPlace}, firerunner.Step{Kind: firerunner.StepReadJob, JobID: 1 << 50, NotBefore: soon},
		firerunner.Step{Kind: firerunner.StepAdvance, RunnerID: "done"})
	_, err := store.DB().ExecContext(t.Context(), `UPDATE river_job SET state = 'running' WHERE kind = 'place'`)
	require.NoError(t, err)
	_, err = store.DB().ExecContext(t.Context(), `UPDATE river_job SET state = 'completed', finalized_at = datetime('now', 'subsec') WHERE kind = 'advance'`)
	require.NoError(t, err)
	tx, err := store.DB().BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer tx.Rollback()
	var pending []firerunner.Step
	require.NoError(t, queue.Pending(t.Context(), tx, func(s firerunner.Step) error { pending = append(pending, s); return nil }))
	require.Equal(t, []firerunner.Step{{Kind: firerunner.StepPlace}, {Kind: firerunner.StepReadJob, JobID: 1 << 50, NotBefore: soon}}, pending)
}
