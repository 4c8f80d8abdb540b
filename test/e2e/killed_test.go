package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/test/remains"
)

// promptly is within what GitLab is told of a job whose microVM died, once there is evidence of that. The figure is a
// promise, and holds on a busy machine too.
const promptly = 10 * time.Second

// failedFor requires that GitLab was told, promptly, that a job failed because of where it ran, and why in its log.
func (s *site) failedFor(id int64, runner string, why firerunner.Reason) {
	s.t.Helper()
	done := s.finished(id)
	require.Equal(s.t, gitlabtest.StatusFailed, done.Status)
	require.Equal(s.t, firerunner.SystemFailure, done.FailureReason)
	require.Len(s.t, done.Handouts, 1, "GitLab may run it again, nobody else")
	require.Contains(s.t, s.gitlab.Trace(id), fmt.Sprintf("FireRunner: the microVM of this job is gone (%s)", why))
	ends := s.events(firerunner.EventQuery{RunnerID: runner, Kinds: []firerunner.EventKind{firerunner.EventUnwanted}})
	require.Len(s.t, ends, 1)
	took := done.FinishedAt.Sub(ends[0].At)
	s.t.Logf("GitLab was told %s after the evidence (%s)", took.Round(time.Millisecond), why)
	require.Less(s.t, took, promptly)
	var told []firerunner.Event
	s.eventually("an event that says so", func() bool { // which is written once GitLab has answered
		told = s.events(firerunner.EventQuery{RunnerID: runner, Kinds: []firerunner.EventKind{firerunner.EventFailedFor}})
		return len(told) > 0
	})
	require.Len(s.t, told, 1)
	require.Equal(s.t, why, told[0].Reason)
}

// withKey waits until the host has the key of a job that runs, and returns its runner. GitLab may say before the guest does
// that the job runs.
func (s *site) withKey() (found firerunner.Runner) {
	s.t.Helper()
	s.eventually("a runner whose job's key is known", func() bool {
		for _, found = range s.rows(firerunner.RunnerQuery{States: []firerunner.State{firerunner.Running}}) {
			if found.JobKey != "" {
				return true
			}
		}
		return false
	})
	return found
}

// TestKilled kills what a job cannot do without. Its guest cannot say any more how it ends, so GitLab is told that it failed
// because of where it ran, and runs it again where its retry: says so.
func TestKilled(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})

	s.run("QEMUThenShim", func(t *testing.T) {
		j := s.only("long:\n  retry: {max: 1, when: [runner_system_failure]}\n  script: [echo begun, sleep 600]\n")
		s.says(j.ID, "begun")
		first := s.inState(firerunner.Running)
		require.NoError(t, syscall.Kill(s.qemu(first.ID), syscall.SIGKILL))
		s.failedFor(j.ID, first.ID, firerunner.ReasonVMExited)

		again := s.gitlab.Jobs(gitlabtest.JobFilter{Statuses: []gitlabtest.Status{gitlabtest.StatusPending, gitlabtest.StatusRunning}})
		require.Len(t, again, 1)
		require.Equal(t, j.ID, again[0].RetryOf)
		s.says(again[0].ID, "begun")
		second := s.row(again[0].ID)
		require.NotEqual(t, first.ID, second.ID, "in another microVM")
		vm := s.qemu(second.ID)
		for _, p := range remains.Processes(s.state("vms", second.ID)) {
			if p.PID != vm {
				require.NoError(t, syscall.Kill(p.PID, syscall.SIGKILL))
			}
		}
		s.failedFor(again[0].ID, second.ID, firerunner.ReasonVMExited)
		for _, id := range []string{first.ID, second.ID} {
			r := s.ended(id, firerunner.Failed, firerunner.ReasonVMExited)
			require.Empty(t, r.JobKey, "nothing is kept of it")
		}
	})
	s.run("GitLabRunner", func(t *testing.T) {
		j := s.only(`murder:
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
		s.says(j.ID, "begun")
		r := s.row(j.ID)
		s.failedFor(j.ID, r.ID, firerunner.ReasonRunnerExited)
		r = s.ended(r.ID, firerunner.Failed, firerunner.ReasonRunnerExited)
		require.Contains(t, r.Message, "SIGKILL")
	})
	require.Len(t, s.rows(firerunner.RunnerQuery{}), 3, "no other microVM in silence")
}
