package e2e

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

func TestCancel(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})

	// What a thief gets is looked at on the way: see stolen_token_test.go.
	s.run("WhileRunning", func(t *testing.T) {
		j := s.only("long:\n  script: [echo begun, 'while sleep 1; do echo still here; done']\n  after_script: [echo cleaned up]\n")
		s.says(j.ID, "still here")
		victim := s.only("victim:\n  script: ['true']\n")
		loot := s.steal(j.ID)
		require.Equal(t, http.StatusNoContent, s.askForJob(loot.Token), "no second job while the first runs")
		require.NoError(t, s.gitlab.CancelJob(j.ID))
		require.Equal(t, gitlabtest.StatusCanceled, s.finished(j.ID).Status)
		require.Contains(t, s.gitlab.Trace(j.ID), "cleaned up", "a cancelled job may still clean up")
		s.ended(s.row(j.ID).ID, firerunner.Cancelled, firerunner.ReasonJobCancelled)

		require.Equal(t, http.StatusForbidden, s.askForJob(loot.Token), "dead after the job")
		waiting, _ := s.gitlab.Job(victim.ID)
		for _, h := range waiting.Handouts { // one of its own may have taken it by now
			require.NotEqual(t, loot.ID, h.RunnerID)
		}
		require.NoError(t, s.gitlab.CancelJob(victim.ID))
	})
	// Nobody else wants the microVM that boots for it, so it goes at once.
	s.run("WhileBooting", func(t *testing.T) {
		j := s.only("unlucky:\n  script: ['true']\n")
		r := s.inState(firerunner.Booting)
		require.NoError(t, s.gitlab.CancelJob(j.ID))
		r = s.ended(r.ID, firerunner.Cancelled, firerunner.ReasonNoDemand)
		require.Zero(t, r.JobID)
		j, _ = s.gitlab.Job(j.ID)
		require.Equal(t, gitlabtest.StatusCanceled, j.Status)
		require.Empty(t, j.Handouts)
	})
	// Somebody else wants it: it is kept, and runs the other's job.
	s.run("WhileBootingForTwo", func(t *testing.T) {
		unlucky := s.only("unlucky:\n  script: ['true']\n")
		r := s.inState(firerunner.Booting)
		lucky := s.only("lucky:\n  script: ['true']\n")
		s.inState(firerunner.Queued) // there is one slot
		require.NoError(t, s.gitlab.CancelJob(unlucky.ID))
		s.succeeded(lucky.ID)
		require.Equal(t, r.ID, s.row(lucky.ID).ID)
	})
}

func TestJobTimeout(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	j := s.finished(s.only("slow:\n  timeout: 10 seconds\n  script: [echo begun, sleep 600]\n").ID)
	require.Equal(t, gitlabtest.StatusFailed, j.Status)
	require.Equal(t, "job_execution_timeout", j.FailureReason)
	require.Contains(t, s.gitlab.Trace(j.ID), "begun")
	s.ended(s.row(j.ID).ID, firerunner.Failed, firerunner.ReasonJobDone)
}
