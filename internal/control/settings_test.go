package control_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/control"
)

// Other settings hold for what begins from then on; what runs keeps what it was given.
func TestChangeSettings(t *testing.T) {
	t.Parallel()
	w := newModel(t)
	w.newJob(small)
	w.task(w.control.Sweep)
	w.settle()
	first := w.rows(t)[0]
	require.Equal(t, firerunner.Booting, first.State)
	require.Equal(t, w.now.Add(time.Minute).UTC(), first.Deadline.UTC())

	set := control.Settings{Profiles: profiles(), Deadlines: firerunner.DefaultDeadlines(), SweepProjects: []int64{w.project}}
	set.Deadlines.Booting = 10 * time.Minute
	require.NoError(t, w.control.ChangeSettings(t.Context(), set))
	w.newJob(small)
	w.task(w.control.Sweep)
	w.settle()
	rows := w.rows(t)
	require.Len(t, rows, 2)
	require.Equal(t, first.Deadline, rows[0].Deadline)
	require.Equal(t, w.now.Add(10*time.Minute).UTC(), rows[1].Deadline.UTC())
	w.finish()
}

// A queue that was full has room at once, without waiting for a sweep.
func TestChangeSettingsLooksAgain(t *testing.T) {
	t.Parallel()
	w := newModel(t)
	set := control.Settings{Profiles: profiles(), Deadlines: firerunner.DefaultDeadlines(), SweepProjects: []int64{w.project}, QueueSize: 1}
	require.NoError(t, w.control.ChangeSettings(t.Context(), set))
	for range 3 {
		w.newJob(small)
	}
	w.task(w.control.Sweep)
	w.settle()
	require.Len(t, w.rows(t), 1)
	set.QueueSize = 10
	require.NoError(t, w.control.ChangeSettings(t.Context(), set))
	w.settle()
	require.Len(t, w.rows(t), 3)
	w.finish()
}
