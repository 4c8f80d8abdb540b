package control_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// GitLab is away for an hour: what runs is not killed, nobody is ended on a guess, the questions become fewer and not more,
// and with the first sweep afterwards everything goes on.
func TestGitLabAwayForAnHour(t *testing.T) {
	t.Parallel()
	w := newModel(t)
	const projects = 40
	require.NoError(t, w.store.Update(t.Context(), func(tx firerunner.Tx) error {
		for i := range int64(projects) {
			if err := tx.SaveProject(t.Context(), firerunner.Project{ID: 900_000 + i, SeenAt: w.now}); err != nil {
				return err
			}
		}
		return nil
	}))
	runs := w.newJob(small)
	w.task(w.control.Sweep)
	w.settle()
	running := w.rows(t)[0]
	for range 2 { // hello, and it takes its job
		w.act(running.ID)
		w.deliver(running.ID, false)
	}
	w.settle()
	waits := w.newJob(small) // its runner boots, and has a credential
	w.task(w.control.Sweep)
	w.settle()
	boots := w.rows(t)[1]
	require.Equal(t, firerunner.Running, w.rows(t)[0].State)
	require.Equal(t, firerunner.Booting, boots.State)
	w.task(w.control.ExpireInTime)

	w.away = true
	w.newJob(small) // nobody hears of it
	sweeps, most := 0, 0
	for at := 10 * time.Second; at <= time.Hour; at += 10 * time.Second {
		w.passTime(10 * time.Second)
		_ = w.control.ExpireInTime(t.Context()) // they say that GitLab is away
		if at%time.Minute == 0 {
			before := w.calls
			require.Error(t, w.control.Sweep(t.Context()))
			_ = w.control.Reap(t.Context())
			sweeps, most = sweeps+1, max(most, w.calls-before)
			w.steps, w.later = append(w.steps, w.later...), nil
			w.settle()
		}
		rows := w.rows(t)
		require.Len(t, rows, 2, "no runner for what cannot be asked")
		for _, r := range rows {
			require.Equal(t, firerunner.Wanted, r.Desired, "%s: %s", r.State, r.Message)
		}
	}
	require.Equal(t, 60, sweeps)
	require.LessOrEqual(t, most, 2*(3+1), "three projects and one sign of life, for sweep and reaper, not %d", projects)
	require.Equal(t, firerunner.JobRunning, w.jobs[runs].Status)
	require.Equal(t, firerunner.Booting, w.rows(t)[1].State, "postponed: it may have a job")

	w.away = false
	w.task(w.control.Sweep)
	w.settle()
	require.Len(t, w.rows(t), 3, "one sweep finds the job")
	w.finish()
	for _, id := range []int64{runs, waits} {
		require.Equal(t, firerunner.JobSuccess, w.jobs[id].Status)
		require.Equal(t, 1, w.jobs[id].handouts)
	}
}
