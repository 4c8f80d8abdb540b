package e2e

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// What operators see when a host goes wrong: the event log, the daemon's log and `hosts list`, each with the cause and
// what to do.

// soon is how long an event may take that nothing but the daemon decides about, on a busy machine.
const soon = time.Minute

// tells waits for an event whose message has all the texts, and requires that the log has the same line.
func (s *site) tells(kind firerunner.EventKind, texts ...string) firerunner.Event {
	s.t.Helper()
	var found firerunner.Event
	has := func(message string) bool {
		return !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(message, text) })
	}
	require.True(s.t, within(soon, func() bool {
		for _, e := range s.events(firerunner.EventQuery{Kinds: []firerunner.EventKind{kind}}) {
			if has(e.Message) {
				found = e
				return true
			}
		}
		return false
	}), "no event %s with %q", kind, texts)
	require.True(s.t, within(soon, func() bool {
		lines, _ := s.log()
		return slices.ContainsFunc(lines, func(l logLine) bool { return l.Kind == string(kind) && has(l.Text) })
	}), "no line in the log of an event that has %q", texts)
	return found
}

// host is the line of `hosts list` about one host.
func (s *site) host(name string) string {
	s.t.Helper()
	for line := range strings.Lines(s.cli("hosts", "list")) {
		if strings.HasPrefix(line, name+" ") {
			return strings.Join(strings.Fields(line), " ")
		}
	}
	require.Fail(s.t, "hosts list has no "+name)
	return ""
}

// machine waits until the host says that a runner's microVM was made, and returns its uid.
func (s *site) machine(host *flintlocktest.Server, runner string) string {
	s.t.Helper()
	var uid string
	ctx, cancel := s.patiently()
	defer cancel()
	require.NoError(s.t, host.Wait(ctx, func(vms []flintlocktest.VM) bool {
		for _, vm := range vms {
			if vm.ID == runner && vm.State == "CREATED" {
				uid = vm.UID
			}
		}
		return uid != ""
	}))
	return uid
}

// TestFleetGhost has a machine die under its job. flintlockd boots it again on its old disk; the ghost finds its token
// used, and nothing of the job runs a second time. GitLab is told that the job failed, and its retry runs in another microVM.
func TestFleetGhost(t *testing.T) {
	t.Parallel()
	c := newCast(t, hostNoise{})
	s := newPlay(t, c)
	c.jobTime.Store(int64(time.Hour))
	j := s.only("long:\n  retry: {max: 1, when: [runner_system_failure]}\n  script: ['true']\n")
	r := s.withKey()
	uid := s.machine(c.hosts[0], r.ID)
	c.jobTime.Store(0)
	require.True(t, c.hosts[0].Kill(uid))
	c.hosts[0].Resync()
	s.tells(firerunner.EventUnwanted, "second time", "its token had been used")
	r = s.ended(r.ID, firerunner.Failed, firerunner.ReasonGuestError)
	require.Equal(t, j.ID, r.JobID)
	require.LessOrEqual(t, c.refused.Load(), int64(1), "the ghost was turned away, unless its machine was removed before it heard so")
	require.Equal(t, 1, c.hosts[0].Counters().GhostBoots)
	s.failedFor(j.ID, r.ID, firerunner.ReasonGuestError)
	s.retriedElsewhere(j.ID)
}

// retriedElsewhere requires that GitLab made a new job of one, and that it ran well in another microVM.
func (s *site) retriedElsewhere(job int64) {
	s.t.Helper()
	for _, again := range s.gitlab.Jobs(gitlabtest.JobFilter{ProjectID: s.project.ID}) {
		if again.RetryOf == job {
			s.succeeded(again.ID)
			s.eventually("another runner that took the new job", func() bool {
				return slices.ContainsFunc(s.rows(firerunner.RunnerQuery{}), func(r firerunner.Runner) bool { return r.JobID == again.ID })
			})
			require.NotEqual(s.t, s.row(job).ID, s.row(again.ID).ID)
			return
		}
	}
	require.Fail(s.t, "GitLab made no new job")
}

// TestFleetStuckDelete has a host not delete what it was told to. The job is done; its runner says what it waits for, and
// is gone once the host has let go.
func TestFleetStuckDelete(t *testing.T) {
	t.Parallel()
	c := newCast(t, hostNoise{retry: 50 * time.Millisecond})
	fault, err := c.hosts[0].AddFault(flintlocktest.Fault{Action: flintlocktest.FaultStuckDelete})
	require.NoError(t, err)
	s := newPlay(t, c, "deadlines.stopping=1s")
	j := s.only(trivial)
	s.succeeded(j.ID)
	e := s.tells(firerunner.EventOverdue, "stopping", "on host h1", "still has it", "the log of flintlockd")
	require.Equal(t, s.row(j.ID).ID, e.RunnerID)
	require.Contains(t, s.host("h1"), "h1 accepting 1/4")
	require.Equal(t, firerunner.Stopping, s.row(j.ID).State)
	c.hosts[0].RemoveFault(fault)
	s.ended(s.row(j.ID).ID, firerunner.Succeeded, firerunner.ReasonJobDone)
	require.Contains(t, s.host("h1"), "h1 accepting 0/4")
}

// TestFleetUnreachableRegistry has one host's registry not answer: the job runs on another host, and the event says where
// to look.
func TestFleetUnreachableRegistry(t *testing.T) {
	t.Parallel()
	c := newCast(t, hostNoise{}, hostNoise{})
	for _, h := range c.hosts {
		_, err := h.AddFault(flintlocktest.Fault{Action: flintlocktest.FaultPullError, Image: "registry.example.com/", Count: 1})
		require.NoError(t, err)
	}
	s := newPlay(t, c)
	j := s.only(trivial)
	e := s.tells(firerunner.EventUnwanted, "could not make it at the first try", "pulled", "flintlockd")
	require.Equal(t, firerunner.ReasonVMExited, e.Reason)
	s.succeeded(j.ID)
	rejected := s.rows(firerunner.RunnerQuery{Outcome: firerunner.Rejected})
	require.NotEmpty(t, rejected)
	require.Contains(t, e.Message, "host "+rejected[0].Host)
	done, _ := s.gitlab.Job(j.ID)
	require.Len(t, done.Handouts, 1)
}

// TestFleetRestartUnderLoad has flintlockd of one host die and come back while jobs run and wait: nothing that runs there
// notices.
func TestFleetRestartUnderLoad(t *testing.T) {
	t.Parallel()
	c := newCast(t, hostNoise{}, hostNoise{})
	s := newPlay(t, c, "flintlock.lost_after=1m")
	c.jobTime.Store(int64(300 * time.Millisecond))
	const jobs = 16
	p := s.push(ci(fmt.Sprintf("many:\n  parallel: %d\n  script: ['true']\n", jobs)))
	s.eventually("microVMs on h1", func() bool { return c.hosts[0].Running() >= 2 })
	require.NoError(t, c.hosts[0].Restart())
	s.eventually("jobs that are done", func() bool {
		return len(s.gitlab.Jobs(gitlabtest.JobFilter{Statuses: []gitlabtest.Status{gitlabtest.StatusSuccess}})) >= jobs/4
	})
	c.hosts[0].StopDaemon()
	// A slow machine may have noticed the restart, too: what hosts list says now is of this time.
	s.eventually("h1 is in trouble", func() bool { return regexp.MustCompile("^h1 trouble .*it does not answer").MatchString(s.host("h1")) })
	s.tells(firerunner.EventHost, "host h1", "in trouble", "it does not answer")
	require.NoError(t, c.hosts[0].StartDaemon())
	ctx, cancel := s.patiently()
	defer cancel()
	done, err := s.gitlab.WaitPipeline(ctx, p.ID)
	require.NoError(t, err, "\n%s", s.timeline())
	require.Equal(t, gitlabtest.StatusSuccess, done.Status)
	s.eventually("h1 accepts", func() bool { return strings.HasPrefix(s.host("h1"), "h1 accepting") })
	s.tells(firerunner.EventHost, "host h1", "takes work again")
}

// TestFleetHostTrouble has a host with another token, and one whose certificate is over. Both take no work and say why;
// they are repaired while the daemon runs.
func TestFleetHostTrouble(t *testing.T) {
	t.Parallel()
	c := newCast(t, hostNoise{}, hostNoise{token: "another-token"}, hostNoise{expired: true})
	s := newPlay(t, c)
	s.run("WrongToken", func(t *testing.T) {
		s.tells(firerunner.EventHost, "host h2", "in trouble", "--basic-auth-token")
		require.Regexp(t, "^h2 trouble .*--basic-auth-token", s.host("h2"))
	})
	s.run("ExpiredCertificate", func(t *testing.T) {
		s.tells(firerunner.EventHost, "host h3", "in trouble", "certificate has expired", "their dates")
		require.Regexp(t, "^h3 trouble .*certificate has expired", s.host("h3"))
	})
	s.run("TheOthersWork", func(t *testing.T) {
		for range 3 {
			s.succeeded(s.only(trivial).ID)
		}
		for _, r := range s.rows(firerunner.RunnerQuery{}) {
			require.Equal(t, "h1", r.Host)
		}
	})
	s.run("Repaired", func(t *testing.T) {
		c.setToken("h2", "another-token")
		s.daemon.signal(syscall.SIGHUP)
		s.tells(firerunner.EventHost, "host h2", "takes work again")
		c.certify(2, time.Now().Add(time.Hour))
		s.tells(firerunner.EventHost, "host h3", "takes work again")
		require.Regexp(t, "^h2 accepting", s.host("h2"))
		require.Regexp(t, "^h3 accepting", s.host("h3"))
	})
	for _, e := range s.events(firerunner.EventQuery{}) {
		require.NotContains(t, e.Message, "hosts-token")
		require.NotContains(t, e.Message, "another-token")
	}
}

// TestFleetLostHost has a host lose its power under a job. The runner is lost, GitLab is told that the job failed, the
// runner in GitLab is deleted, and the job's retry runs elsewhere.
func TestFleetLostHost(t *testing.T) {
	t.Parallel()
	c := newCast(t, hostNoise{}, hostNoise{})
	s := newPlay(t, c)
	c.jobTime.Store(int64(time.Hour))
	j := s.only("long:\n  retry: {max: 1, when: [runner_system_failure]}\n  script: ['true']\n")
	r := s.withKey()
	lost := c.hosts[map[string]int{"h1": 0, "h2": 1}[r.Host]]
	c.jobTime.Store(0)
	lost.PowerOff()
	began := time.Now()
	s.tells(firerunner.EventHost, "host "+r.Host, "lost")
	evidence := time.Now()
	require.Regexp(t, "^"+r.Host+" lost", s.host(r.Host))
	s.eventually("no runner in GitLab that could not run", func() bool {
		return !slices.ContainsFunc(s.gitlab.Runners(), func(g gitlabtest.Runner) bool { return slices.Contains(g.JobIDs, j.ID) })
	})
	t.Logf("lost after %s; its runner in GitLab was deleted %s later", evidence.Sub(began).Round(time.Millisecond), time.Since(evidence).Round(time.Millisecond))
	require.Less(t, time.Since(evidence), 10*time.Second)
	require.Equal(t, firerunner.Lost, s.row(j.ID).Outcome)
	require.Equal(t, firerunner.ReasonHostLost, s.row(j.ID).Reason)
	s.failedFor(j.ID, r.ID, firerunner.ReasonHostLost)
	s.retriedElsewhere(j.ID)
	require.NoError(t, lost.StartDaemon())
	s.tells(firerunner.EventHost, "host "+r.Host, "it is back, and nothing is left on it")
}

// TestFleetRefusedSize asks for more than any host has.
func TestFleetRefusedSize(t *testing.T) {
	t.Parallel()
	c := newCast(t, hostNoise{})
	s := newPlay(t, c)
	began := time.Now()
	j := s.only("huge:\n  tags: [firecracker-999cpu-9999gb]\n  script: ['true']\n")
	e := s.tells(firerunner.EventJobRefused, "999")
	took := e.At.Sub(began)
	t.Logf("refused after %s", took.Round(time.Millisecond))
	require.Less(t, took, 2*time.Second)
	require.Equal(t, j.ID, e.JobID)
	require.Equal(t, firerunner.ReasonSizeRefused, e.Reason)
	require.Empty(t, s.rows(firerunner.RunnerQuery{}))
	require.NoError(t, s.gitlab.CancelJob(j.ID))
	require.Zero(t, cmp.Or(c.hosts[0].Counters().Creates, len(s.gitlab.Runners())))
}
