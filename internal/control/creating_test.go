package control_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// creating lets the driver make a microVM for a new job and not answer for longer than a runner may be in creating. What
// meanwhile does happens at the end of that time.
func (w *world) creating(t *testing.T, meanwhile func(id string)) (job int64) {
	t.Helper()
	job = w.newJob(small)
	w.createErr = firerunner.Errorf(firerunner.Unavailable, "the host did not say")
	w.createUnclear = func(id string) {
		w.createErr, w.createUnclear = nil, nil
		w.now = w.now.Add(firerunner.DefaultDeadlines().Creating + 10*time.Second)
		meanwhile(id)
	}
	w.task(w.control.Sweep)
	for w.createUnclear != nil && len(w.steps) > 0 {
		w.run(0)
	}
	require.Nil(t, w.createUnclear, "it was asked to make one")
	return job
}

// wholeLife lets a guest do all that a guest does.
func (w *world) wholeLife(id string) {
	for range 4 { // hello, takes the job, does it, ends
		w.act(id)
	}
}

// A guest may do its whole job while nobody knows yet that its microVM was made: before the runner is given up for the time
// that it has been in creating, the microVM is found, and the job is remembered as what it was.
func TestDeadlineWhileCreating(t *testing.T) {
	t.Parallel()
	expire := func(t *testing.T, w *world) {
		require.Equal(t, firerunner.Creating, w.rows(t)[0].State)
		w.task(w.control.Expire)
		r := w.rows(t)[0]
		require.Equal(t, firerunner.Booting, r.State, "its guest is listened to")
		require.True(t, r.Deadline.After(w.now))
	}
	for name, tell := range map[string]func(*testing.T, *world) int64{
		"the driver does not answer": func(t *testing.T, w *world) int64 {
			return w.creating(t, func(id string) {
				w.wholeLife(id)
				expire(t, w)
			})
		},
		"the daemon is dead": func(t *testing.T, w *world) int64 {
			job := w.creating(t, func(id string) {
				w.wholeLife(id)
				w.dead = true
			})
			expire(t, w)
			return job
		},
		"GitLab is away": func(t *testing.T, w *world) int64 {
			return w.creating(t, func(id string) {
				w.wholeLife(id)
				w.away = true
				expire(t, w)
				w.away = false
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newModel(t)
			job := tell(t, w)
			w.deliverAll() // before GitLab is asked what became of the job
			w.finish()
			rows := w.rows(t)
			require.Len(t, rows, 1, "no other took its place")
			require.Equal(t, firerunner.Succeeded, rows[0].Outcome, rows[0].Message)
			require.Equal(t, job, rows[0].JobID)
		})
	}
}

// One whose guest has no job yet takes one all the same: GitLab is not told to give it none.
func TestDeadlineWhileCreatingWithoutJob(t *testing.T) {
	t.Parallel()
	w := newModel(t)
	job := w.creating(t, func(string) {
		w.task(w.control.Expire)
		require.Len(t, w.runners, 1)
		for _, r := range w.runners {
			require.False(t, r.Paused)
		}
	})
	w.finish()
	require.Len(t, w.rows(t), 1)
	require.Equal(t, firerunner.Succeeded, w.rows(t)[0].Outcome)
	require.Equal(t, 1, w.jobs[job].handouts)
}

// Where the driver cannot say what is there, it is asked again in each round, for as long as one call may take. Nothing is
// stuck where it never can.
func TestDeadlineWhileCreatingUnseen(t *testing.T) {
	t.Parallel()
	for name, recovers := range map[string]bool{"for a moment": true, "for ever": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newModel(t)
			w.creating(t, func(id string) {
				if recovers { // else GitLab knows of no job either
					w.wholeLife(id)
				}
				w.listErr = firerunner.Errorf(firerunner.Unavailable, "the driver did not answer")
				require.ErrorContains(t, w.control.Expire(t.Context()), "looking for microVM "+id+" before it is given up")
				require.Equal(t, firerunner.Wanted, w.rows(t)[0].Desired)
				w.now = w.now.Add(15 * time.Second) // nearly half a minute after its deadline
				require.Error(t, w.control.Expire(t.Context()))
				require.Equal(t, firerunner.Wanted, w.rows(t)[0].Desired)
				w.now = w.now.Add(10 * time.Second)
				if recovers {
					w.listErr = nil
					require.NoError(t, w.control.Expire(t.Context()))
					return
				}
				require.Error(t, w.control.Expire(t.Context()))
				require.Equal(t, firerunner.ReasonDeadline, w.rows(t)[0].Reason)
				require.Contains(t, w.said(t, firerunner.EventOverdue), "creating for longer than 2m0s")
			})
			w.listErr = nil
			w.deliverAll()
			w.finish()
			r := w.rows(t)[0]
			require.Equal(t, recovers, r.Outcome == firerunner.Succeeded, r.Message)
		})
	}
}
