package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// TestRunnerKilled has a job that kills its gitlab-runner: nobody can say any more how the job ends. It had begun, so
// it is not run again; GitLab fails it when its time is over.
func TestRunnerKilled(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{gitlab: func(c *gitlabtest.Config) {
		c.TimeoutGrace, c.SweepInterval = 5*time.Second, time.Second
	}})
	j := s.only(`murder:
  timeout: 1 minute
  script:
    - echo begun
    - sleep 2
    - |
      for at in /proc/[0-9]*; do
        read -r -d '' program < $at/cmdline || :
        case $program in *gitlab-runner) kill -9 ${at#/proc/} ;; esac
      done
    - sleep 600
`)
	r := s.inState(firerunner.Running)
	r = s.ended(r.ID, firerunner.Failed, firerunner.ReasonRunnerExited)
	require.Equal(t, j.ID, r.JobID)
	require.Contains(t, r.Message, "SIGKILL")
	now, _ := s.gitlab.Job(j.ID)
	require.Equal(t, gitlabtest.StatusRunning, now.Status, "GitLab does not know yet")

	done := s.finished(j.ID)
	require.Equal(t, gitlabtest.StatusFailed, done.Status)
	require.Len(t, done.Handouts, 1)
	require.Len(t, s.rows(firerunner.RunnerQuery{}), 1, "no second microVM in silence")
}
