package control_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// pass lets time really pass.
func (w *world) passTime(d time.Duration) { w.now, w.elapsed = w.now.Add(d), w.elapsed+d }

// stay puts a runner into a state, with a guest and a job as far as the state has them.
func (w *world) stay(t *testing.T, state firerunner.State) firerunner.Runner {
	t.Helper()
	w.newJob(small)
	w.task(w.control.Sweep)
	w.settle()
	r := w.rows(t)[0]
	require.Equal(t, firerunner.Booting, r.State)
	if state >= firerunner.Ready {
		w.act(r.ID)
		w.deliver(r.ID, false)
	}
	if state >= firerunner.Running {
		w.act(r.ID)
		w.deliver(r.ID, false)
	}
	require.NoError(t, w.store.Update(t.Context(), func(tx firerunner.Tx) error {
		r, err := tx.Runner(t.Context(), r.ID)
		if err != nil {
			return err
		}
		require.Equal(t, state, r.State)
		return nil
	}))
	return w.rows(t)[0]
}

// A clock that jumps ahead by an hour ends nothing: what is there keeps the time that it had left.
func TestClockJumpsForward(t *testing.T) {
	t.Parallel()
	for _, state := range []firerunner.State{firerunner.Booting, firerunner.Ready, firerunner.Running} {
		t.Run(state.String(), func(t *testing.T) {
			t.Parallel()
			w := newModel(t)
			before := w.stay(t, state)
			w.task(w.control.ExpireInTime)
			w.now = w.now.Add(2 * time.Hour)
			w.passTime(time.Second)
			w.task(w.control.ExpireInTime)
			w.settle()
			r := w.rows(t)[0]
			require.Equal(t, firerunner.Wanted, r.Desired, r.Message)
			require.Equal(t, before.Deadline.Add(2*time.Hour).UTC(), r.Deadline.UTC())
			require.Equal(t, before.MovedAt.Add(2*time.Hour).UTC(), r.MovedAt.UTC())
			require.Contains(t, w.said(t, firerunner.EventDaemon), "the clock jumped forward by 2h0m0s: the deadlines of 1 runners go along")
			w.finish()
			require.Equal(t, firerunner.Succeeded, w.rows(t)[0].Outcome)
		})
	}
}

// A clock that was set back while no process was there makes nothing last longer either.
func TestClockWentBackUnseen(t *testing.T) {
	t.Parallel()
	for _, state := range []firerunner.State{firerunner.Booting, firerunner.Ready, firerunner.Running} {
		t.Run(state.String(), func(t *testing.T) {
			t.Parallel()
			w := newModel(t)
			before := w.stay(t, state)
			w.now = w.now.Add(-2 * time.Hour)
			require.NoError(t, w.control.Adopt(t.Context()))
			r := w.rows(t)[0]
			require.Equal(t, w.now.UTC(), r.MovedAt.UTC())
			require.Equal(t, before.Deadline.Sub(before.MovedAt), r.Deadline.Sub(r.MovedAt))
			require.Contains(t, w.said(t, firerunner.EventNotice), "the clock had gone back by at least ")
			require.NoError(t, w.control.Adopt(t.Context()))
			require.Equal(t, r.Deadline, w.rows(t)[0].Deadline, "once")
			w.finish()
			require.Equal(t, firerunner.Succeeded, w.rows(t)[0].Outcome)
		})
	}
}

// A clock that jumps back by an hour makes nothing last an hour longer.
func TestClockJumpsBack(t *testing.T) {
	t.Parallel()
	for _, state := range []firerunner.State{firerunner.Booting, firerunner.Ready, firerunner.Running} {
		t.Run(state.String(), func(t *testing.T) {
			t.Parallel()
			w := newModel(t)
			w.stay(t, state)
			w.task(w.control.ExpireInTime)
			w.now = w.now.Add(-3 * time.Hour)
			w.passTime(time.Second)
			w.task(w.control.ExpireInTime)
			limit := firerunner.DefaultDeadlines().Of(state)
			r := w.rows(t)[0]
			require.WithinDuration(t, w.now.Add(limit), r.Deadline, 2*time.Second)
			for range int(limit/(10*time.Second)) + 1 { // nobody says anything any more
				w.passTime(10 * time.Second)
				if state == firerunner.Running {
					w.runnerJobsErr = nil
				}
				w.task(w.control.ExpireInTime)
			}
			require.Equal(t, firerunner.Unwanted, w.rows(t)[0].Desired)
			require.Contains(t, w.said(t, firerunner.EventOverdue), fmt.Sprintf("%s for longer than %s", state, limit))
		})
	}
}

// The pause after a rejection does not become an hour.
func TestClockJumpsBackInAPause(t *testing.T) {
	t.Parallel()
	w := newModel(t)
	w.createErr = firerunner.Errorf(firerunner.Invalid, "broken")
	w.newJob(small)
	w.task(w.control.Sweep)
	w.settle()
	require.Equal(t, firerunner.Rejected, w.rows(t)[0].Outcome)
	w.createErr = nil
	w.now = w.now.Add(-time.Hour)
	w.passTime(3 * time.Minute)
	w.task(w.control.Sweep)
	w.settle()
	for range 3 {
		w.passTime(3 * time.Minute)
		w.steps, w.later = append(w.steps, w.later...), nil
		w.task(w.control.Sweep)
		w.settle()
	}
	require.Greater(t, len(w.rows(t)), 1, "another runner")
	w.finish()
}

// Who could not look for a while hears first what was said meanwhile: the store was away, or the process was stopped.
func TestExpireAfterALongPause(t *testing.T) {
	t.Parallel()
	w := newModel(t)
	r := w.stay(t, firerunner.Booting)
	w.task(w.control.ExpireInTime)
	w.act(r.ID) // its hello is not heard yet
	w.passTime(10 * time.Minute)
	w.task(w.control.ExpireInTime)
	require.Equal(t, firerunner.Wanted, w.rows(t)[0].Desired)
	w.deliverAll()
	require.Equal(t, firerunner.Ready, w.rows(t)[0].State)
	w.finish()
}

// said is the messages of events of a kind.
func (w *world) said(t *testing.T, kind firerunner.EventKind) (all string) {
	t.Helper()
	events, err := w.store.Events(t.Context(), firerunner.EventQuery{Kinds: []firerunner.EventKind{kind}})
	require.NoError(t, err)
	for _, e := range events {
		all += e.Message + "\n"
	}
	return all
}
