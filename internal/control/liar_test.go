package control_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// A guest that claims a job which GitLab gave to another ends; the true one is not disturbed.
func TestLiarClaimsRunningJob(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	h := newHouse(t, options{script: workAfter(gate)})
	victim := h.push(small)[0]
	honest := h.awaitRunner("running", inState(firerunner.Running))
	h.play(func(g *guest) error {
		g.hello()
		g.took(victim)
		return waitForEnd(g)
	})
	other := h.push(small)[0]
	liar := h.awaitRunner("gone", inState(firerunner.Gone))
	require.NotEqual(t, honest.ID, liar.ID)
	require.Equal(t, firerunner.Failed, liar.Outcome)
	require.Equal(t, firerunner.ReasonGuestError, liar.Reason)
	h.play(work)
	h.hint(other)
	h.awaitJobs(gitlabtest.StatusSuccess, other)
	close(gate)
	h.awaitJobs(gitlabtest.StatusSuccess, victim)
	h.nothingLeft()
	h.ranOnce(victim, other)
	r, err := h.store.Runner(t.Context(), honest.ID)
	require.NoError(t, err)
	require.Equal(t, firerunner.Succeeded, r.Outcome)
}

// A guest that claims a job which still waits keeps it from having a runner only until GitLab was asked again.
func TestLiarClaimsPendingJob(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{noHooks: true})
	ids := h.push(small)
	h.play(once(func(g *guest) error {
		g.hello()
		g.took(ids[0])
		return waitForEnd(g)
	}))
	h.hint(ids...)
	h.awaitRunner("running", inState(firerunner.Running))
	read := h.control.Steps()[firerunner.StepReadJob]
	step := firerunner.Step{Kind: firerunner.StepReadJob, ProjectID: h.project.ID, JobID: ids[0]}
	after, later := firerunner.IsLater(read(t.Context(), step))
	require.True(t, later, "it may be that GitLab is late")
	require.LessOrEqual(t, after, 10*time.Second)
	require.Len(t, h.live(), 1)

	h.later(11 * time.Second)
	require.NoError(t, read(t.Context(), step))
	liar := h.awaitRunner("unwanted", func(r firerunner.Runner) bool { return r.Desired == firerunner.Unwanted })
	require.Equal(t, firerunner.ReasonGuestError, liar.Reason)
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.hint(ids...)
	h.nothingLeft()
	h.ranOnce(ids...)
}

// A guest that claims a job which does not exist ends.
func TestLiarClaimsNoJob(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{script: once(func(g *guest) error {
		g.hello()
		g.took(4711)
		return waitForEnd(g)
	})})
	ids := h.push(small)
	liar := h.awaitRunner("gone", inState(firerunner.Gone))
	require.Equal(t, firerunner.ReasonGuestError, liar.Reason)
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.nothingLeft()
	h.ranOnce(ids...)
	_, err := h.store.Job(t.Context(), 4711)
	require.Equal(t, firerunner.NotFound, firerunner.CodeOf(err))
}

// gitlab-runner does not count a job that was cancelled between hand-out and start: it asks again and gets another. That
// second job must not die of the first one's cancellation.
func TestSecondJobAfterCancelledHandOut(t *testing.T) {
	t.Parallel()
	first, cancelled, gate := make(chan int64, 1), make(chan struct{}), make(chan struct{})
	h := newHouse(t, options{noHooks: true, script: func(g *guest) error {
		g.hello()
		j, err := g.take()
		if err != nil {
			return err
		}
		first <- j.ID
		if !g.wait(cancelled) {
			return nil
		}
		second, err := g.take()
		if err != nil {
			return err
		}
		g.took(second.ID)
		if !g.wait(gate) {
			return nil
		}
		return g.finish(second)
	}})
	ids := h.push(small, small)
	h.hint(ids[0])
	require.Equal(t, ids[0], receive(t, first))
	require.NoError(t, h.gitlab.CancelJob(ids[0]))
	close(cancelled)
	h.awaitJobs(gitlabtest.StatusRunning, ids[1])
	h.hint(ids[0]) // the cancellation is heard of only now
	h.until("the cancellation is known", func() bool {
		j, err := h.store.Job(t.Context(), ids[0])
		return err == nil && j.Status == firerunner.JobCanceled
	})
	r := h.awaitRunner("running", func(r firerunner.Runner) bool { return r.State == firerunner.Running && r.JobID == ids[1] })
	require.Equal(t, firerunner.Wanted, r.Desired)
	close(gate)
	h.awaitJobs(gitlabtest.StatusSuccess, ids[1])
	h.nothingLeft()
	h.ranOnce(ids[1])
	require.Equal(t, firerunner.Succeeded, h.runners()[0].Outcome)
	for _, extra := range h.runners()[1:] { // made while the first job still counted as pending
		require.Equal(t, firerunner.Cancelled, extra.Outcome)
	}
}

// The same where everything that could be known is known before the guest says a word: the runner that is still booting
// in our eyes has a job already, and is not ended for want of one.
func TestJobTakenBeforeHelloIsRead(t *testing.T) {
	t.Parallel()
	took, speak, gate := make(chan struct{}), make(chan struct{}), make(chan struct{})
	h := newHouse(t, options{noHooks: true, script: func(g *guest) error {
		j, err := g.take()
		if err != nil {
			return err
		}
		close(took)
		if !g.wait(speak) {
			return nil
		}
		g.hello()
		g.took(j.ID)
		if !g.wait(gate) {
			return nil
		}
		return g.finish(j)
	}})
	ids := h.push(small)
	h.hint(ids...)
	receive(t, took)
	h.awaitRunner("booting", inState(firerunner.Booting))

	// The deadline passes, and nobody knows of the job yet: GitLab is asked before it is ended.
	h.later(61 * time.Second)
	require.NoError(t, h.control.Expire(t.Context()))
	r := h.awaitRunner("known to have the job", func(r firerunner.Runner) bool { return r.JobID == ids[0] })
	require.Equal(t, firerunner.Wanted, r.Desired)
	require.Equal(t, firerunner.Booting, r.State)
	h.hint(ids...)
	require.NoError(t, h.control.Sweep(t.Context()))
	require.NoError(t, h.control.Expire(t.Context()))

	close(speak)
	h.awaitRunner("running", inState(firerunner.Running))
	close(gate)
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.nothingLeft()
	require.Len(t, h.runners(), 1)
	require.Equal(t, firerunner.Succeeded, h.runners()[0].Outcome)
	require.Len(t, h.events(firerunner.EventTookJob), 1)
}

// Surplus that took a job in the very moment in which it was to be retired is not killed.
func TestRetiredWhileItTakesAJob(t *testing.T) {
	t.Parallel()
	look, took, gate := make(chan struct{}), make(chan struct{}), make(chan struct{})
	h := newHouse(t, options{noHooks: true, script: func(g *guest) error {
		g.hello()
		if !g.wait(look) {
			return nil
		}
		j, err := g.take()
		if err != nil {
			return err
		}
		close(took)
		if !g.wait(gate) {
			return nil
		}
		g.took(j.ID)
		return g.finish(j)
	}})
	ids := h.push(small, small)
	h.hint(ids[0])
	h.awaitRunner("ready", inState(firerunner.Ready))
	require.NoError(t, h.gitlab.CancelJob(ids[0])) // so it is surplus; nobody told us of the second job
	close(look)
	receive(t, took)
	h.hint(ids[0])
	r := h.awaitRunner("running", func(r firerunner.Runner) bool { return r.State == firerunner.Running && r.JobID == ids[1] })
	require.Equal(t, firerunner.Wanted, r.Desired)
	close(gate)
	h.awaitJobs(gitlabtest.StatusSuccess, ids[1])
	h.nothingLeft()
	require.Equal(t, firerunner.Succeeded, h.runners()[0].Outcome)
}
