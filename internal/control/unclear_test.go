package control_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// A clock that jumps makes one lost answer look like a long silence: that is no reason to give a host up.
func TestHostNotLostByClock(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	h, fleet := newFleet(t, options{script: workAfter(gate)}, fleetHost("a", 2))
	ids := h.push(small)
	h.awaitRunner("running", on("a", firerunner.Running))
	require.NoError(t, h.control.Probe(t.Context()))
	fleet.set(func() { fleet.silent["a"] = true })
	h.later(time.Hour)
	require.NoError(t, h.control.Probe(t.Context()))
	require.False(t, h.host("a").Lost)
	fleet.set(func() { fleet.silent["a"] = false })
	require.NoError(t, h.control.Probe(t.Context()))
	require.Empty(t, h.host("a").Trouble)
	close(gate)
	h.nothingLeft()
	h.ranOnce(ids...)
}

// A driver that does not say whether it made a microVM may have made it, and its guest may have taken a job by the time
// that the driver's error is heard: the job is not killed. Without a job the microVM goes, and another is made.
func TestCreateUnclear(t *testing.T) {
	t.Parallel()
	var current *world
	store := modelStore(t, &current)
	for number, c := range map[int64]struct{ takes bool }{1: {true}, 2: {false}} {
		w := newWorld(func(format string, args ...any) {
			t.Helper()
			t.Fatalf(format, args...)
		}, store, number)
		current = w
		w.start()
		w.createErr = firerunner.Errorf(firerunner.Unavailable, "the host did not say")
		w.createUnclear = func(id string) {
			w.createErr, w.createUnclear = nil, nil
			if c.takes {
				w.act(id) // hello
				w.act(id) // takes the job
			}
		}
		id := w.newJob(small)
		w.task(w.control.Sweep)
		w.settle()
		require.Nil(t, w.createUnclear, "it was asked to make one")
		r, err := store.Runners(t.Context(), firerunner.RunnerQuery{Live: true})
		require.NoError(t, err)
		if c.takes {
			require.Len(t, r, 1)
			require.Equal(t, firerunner.Booting, r[0].State)
			require.Equal(t, id, r[0].JobID)
			require.Len(t, w.vms, 1)
		}
		w.finish()
		require.Equal(t, firerunner.JobSuccess, w.jobs[id].Status)
		require.Equal(t, 1, w.jobs[id].handouts)
	}
}
