package e2e

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

func TestShutdown(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})

	// The job that runs may finish; the one that waits for its slot is left to GitLab, until the next start.
	s.run("RunningJobMayFinish", func(t *testing.T) {
		j := s.only("short:\n  script: ['for i in $(seq 8); do echo second $i; sleep 1; done', echo finished]\n")
		s.says(j.ID, "second 2")
		waiting := s.only("waiting:\n  script: ['true']\n")
		s.inState(firerunner.Queued)
		s.stop()
		done, _ := s.gitlab.Job(j.ID)
		require.Equal(t, gitlabtest.StatusSuccess, done.Status)
		require.Contains(t, s.gitlab.Trace(j.ID), "finished")
		require.Empty(t, s.remains())
		require.Empty(t, s.gitlab.Runners())
		require.Empty(t, s.rows(firerunner.RunnerQuery{Live: true}))
		left, _ := s.gitlab.Job(waiting.ID)
		require.Equal(t, gitlabtest.StatusPending, left.Status)
		s.start()
		s.inState(firerunner.Booting) // for the one that waited
		require.NoError(t, s.gitlab.CancelJob(waiting.ID))
	})
	// The second signal ends the job at once. GitLab hears of it: the job fails, and does not hang.
	s.run("SecondSignal", func(t *testing.T) {
		j := s.only("endless:\n  script: [echo begun, 'while sleep 1; do echo still here; done']\n")
		s.says(j.ID, "still here")
		s.daemon.signal(syscall.SIGTERM)
		_, ended := s.daemon.wait(2 * time.Second)
		require.False(t, ended, "the first signal leaves the job its time")
		s.stop()
		done, _ := s.gitlab.Job(j.ID)
		require.Equal(t, gitlabtest.StatusFailed, done.Status, s.gitlab.Trace(j.ID))
		require.Len(t, done.Handouts, 1)
		require.Empty(t, s.remains())
		require.Empty(t, s.gitlab.Runners())
		r := s.row(j.ID)
		require.Equal(t, firerunner.Gone, r.State)
		require.Equal(t, firerunner.ReasonShutdown, r.Reason)
	})
}
