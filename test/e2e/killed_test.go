package e2e

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// TestKilled kills what a job cannot do without. Nobody can say any more how the job ends; it had begun, so it is not
// run again, and GitLab fails it when its time is over.
func TestKilled(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{gitlab: func(c *gitlabtest.Config) {
		c.TimeoutGrace, c.SweepInterval = 5*time.Second, time.Second
	}})
	// dead requires that a runner failed with its job, and that GitLab does not know yet.
	dead := func(t *testing.T, id string, j gitlabtest.Job, why firerunner.Reason) firerunner.Runner {
		r := s.ended(id, firerunner.Failed, why)
		require.Equal(t, j.ID, r.JobID)
		now, _ := s.gitlab.Job(j.ID)
		require.Equal(t, gitlabtest.StatusRunning, now.Status)
		return r
	}

	s.run("Shim", func(t *testing.T) {
		j := s.only("long:\n  script: [echo begun, sleep 600]\n")
		s.says(j.ID, "begun")
		r := s.inState(firerunner.Running)
		vm := s.qemu(r.ID)
		for _, p := range processesOf(s.state("vms", r.ID)) {
			if p.pid != vm {
				require.NoError(t, syscall.Kill(p.pid, syscall.SIGKILL))
			}
		}
		dead(t, r.ID, j, firerunner.ReasonVMExited)
	})
	s.run("GitLabRunner", func(t *testing.T) {
		j := s.only(`murder:
  timeout: 40 seconds
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
		r := dead(t, s.inState(firerunner.Running).ID, j, firerunner.ReasonRunnerExited)
		require.Contains(t, r.Message, "SIGKILL")
		done := s.finished(j.ID)
		require.Equal(t, gitlabtest.StatusFailed, done.Status)
		require.Len(t, done.Handouts, 1)
	})
	require.Len(t, s.rows(firerunner.RunnerQuery{}), 2, "no other microVM in silence")
}
