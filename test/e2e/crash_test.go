package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// long is a job that is in the middle for a minute, and says so all the time.
const long = "long:\n  script: [echo begun, 'for i in $(seq 60); do echo second $i; sleep 1; done', echo finished]\n"

func TestAfterCrash(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	next := under.next(t)

	// GitLab has made a runner, and the daemon dies before it hears of it; then it dies while the microVM boots.
	s.run("WhileAskingForACredentialAndWhileBooting", func(t *testing.T) {
		id, err := s.gitlab.AddFault(gitlabtest.Fault{
			Action: gitlabtest.FaultDelayAnswer, Delay: 10 * time.Second, Method: "POST", Path: "/api/v4/user/runners", Count: 1,
		})
		require.NoError(t, err)
		j := s.only(trivial)
		s.eventually("a runner in GitLab", func() bool { return len(s.gitlab.Runners()) == 1 })
		s.kill()
		orphan := s.gitlab.Runners()[0].ID
		s.start()
		r := s.inState(firerunner.Booting)
		require.Equal(t, 1, s.struck(id))

		vm := s.qemu(r.ID)
		s.kill()
		s.start()
		require.Equal(t, vm, s.qemu(r.ID), "the same microVM boots on")

		// Drain waits for what has begun and kills nothing.
		drained := s.cli("drain", "--json")
		require.Contains(t, drained, `"state": "drained"`)
		require.Contains(t, drained, `"left": []`)
		done, _ := s.gitlab.Job(j.ID)
		require.Equal(t, gitlabtest.StatusSuccess, done.Status, s.trace(j.ID))
		require.Contains(t, s.cli("accept"), "accepting: 1 hosts")
		require.Len(t, done.Handouts, 1)
		require.NotEqual(t, orphan, done.RunnerID, "nobody has the orphan's token")
		require.Equal(t, r.ID, s.row(j.ID).ID)
		require.Len(t, s.rows(firerunner.RunnerQuery{}), 1, "one runner, with another credential")
	})
	// The microVM outlives the daemon; the next one takes it up, and the job is none the wiser, although the next one is
	// another build: this is what an upgrade is. Then the job ends while nobody is there to hear it.
	s.run("WhileRunningAndWhenTheJobEnds", func(t *testing.T) {
		j := s.only(long)
		s.says(j.ID, "second 2")
		r := s.inState(firerunner.Running)
		vm := s.qemu(r.ID)
		s.kill()
		s.says(j.ID, "second 4") // nobody is there but the microVM
		s.program = next
		s.start()
		require.Contains(t, readAll(s.logFile()), `"version":"`+nextVersion+`"`)
		require.Equal(t, vm, s.qemu(r.ID))
		require.Equal(t, firerunner.Running, s.row(j.ID).State)

		s.kill()
		done := s.succeeded(j.ID)
		require.Contains(t, s.gitlab.Trace(j.ID), "finished")
		s.start()
		require.Len(t, done.Handouts, 1)
		after := s.ended(s.row(j.ID).ID, firerunner.Succeeded, firerunner.ReasonJobDone)
		require.Equal(t, r.ID, after.ID)
		require.Equal(t, done.RunnerID, after.GitLabID)
	})
}
