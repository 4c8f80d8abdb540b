package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// long is a job that is in the middle for some seconds, and says so all the time.
const long = "long:\n  script: [echo begun, 'for i in $(seq 8); do echo second $i; sleep 1; done', echo finished]\n"

func TestAfterCrash(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})

	// The microVM outlives the daemon; the next one takes it up, and the job is none the wiser.
	s.run("WhileRunning", func(t *testing.T) {
		j := s.only(long)
		s.says(j.ID, "second 2")
		r := s.inState(firerunner.Running)
		vm := s.qemu(r.ID)
		s.kill()
		s.says(j.ID, "second 4") // nobody is there but the microVM
		s.start()
		done := s.succeeded(j.ID)
		require.Contains(t, s.gitlab.Trace(j.ID), "finished")
		require.Len(t, done.Handouts, 1)
		after := s.ended(s.row(j.ID).ID, firerunner.Succeeded, firerunner.ReasonJobDone)
		require.Equal(t, r.ID, after.ID)
		require.Equal(t, done.RunnerID, after.GitLabID)
		require.NotZero(t, vm)
	})
	// The job ends while nobody is there to hear it.
	s.run("JobEndsMeanwhile", func(t *testing.T) {
		j := s.only(long)
		s.says(j.ID, "second 2")
		s.kill()
		s.succeeded(j.ID)
		s.start()
		s.ended(s.row(j.ID).ID, firerunner.Succeeded, firerunner.ReasonJobDone)
	})
	s.run("WhileBooting", func(t *testing.T) {
		j := s.only(trivial)
		r := s.inState(firerunner.Booting)
		vm := s.qemu(r.ID)
		s.kill()
		s.start()
		require.Equal(t, vm, s.qemu(r.ID), "the same microVM boots on")
		require.Len(t, s.succeeded(j.ID).Handouts, 1)
		require.Equal(t, r.ID, s.row(j.ID).ID)
	})
	// GitLab has made a runner, and the daemon dies before it hears of it.
	s.run("WhileAskingForACredential", func(t *testing.T) {
		before := len(s.rows(firerunner.RunnerQuery{}))
		id, err := s.gitlab.AddFault(gitlabtest.Fault{
			Action: gitlabtest.FaultDelayAnswer, Delay: 10 * time.Second, Method: "POST", Path: "/api/v4/user/runners", Count: 1,
		})
		require.NoError(t, err)
		j := s.only(trivial)
		s.eventually("a runner in GitLab", func() bool { return len(s.gitlab.Runners()) == 1 })
		s.kill()
		orphan := s.gitlab.Runners()[0].ID
		s.start()
		done := s.succeeded(j.ID)
		require.Equal(t, 1, s.struck(id))
		require.Len(t, done.Handouts, 1)
		require.NotEqual(t, orphan, done.RunnerID)
		require.Len(t, s.rows(firerunner.RunnerQuery{}), before+1, "the same runner, with another credential")
	})
}
