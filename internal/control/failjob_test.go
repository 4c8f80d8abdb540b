package control_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/control"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// taken is a guest that takes a job, hands out its key, and then does what after says once a test lets it.
func taken(let <-chan struct{}, after func(*guest, job) error) script {
	return func(g *guest) error {
		g.hello()
		j, err := g.take()
		if err != nil {
			return err
		}
		g.took(j.ID)
		g.wait(let)
		if after == nil {
			return waitForEnd(g)
		}
		return after(g, j)
	}
}

// retried is added to a job's tags.
const retried = "]\n  retry: {max: 1, when: [runner_system_failure]}\n  after_script: [\"true\""

func withKey(r firerunner.Runner) bool { return r.State == firerunner.Running && r.JobKey != "" }

// A job whose guest ends without a word is failed in GitLab, with the job's own token, and GitLab retries it.
func TestFailedIsTold(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		after  func(*guest, job) error
		test   func(*testing.T, *house)
		reason firerunner.Reason
	}{
		"VMExited":     {reason: firerunner.ReasonVMExited, test: func(_ *testing.T, h *house) { h.driver.Kill(h.runners()[0].ID) }},
		"Guest":        {reason: firerunner.ReasonGuestError, after: func(g *guest, _ job) error { g.report(firerunner.ReportError, 0, false); return waitForEnd(g) }},
		"RunnerExited": {reason: firerunner.ReasonRunnerExited, after: func(g *guest, _ job) error { return g.exit(2, "killed") }},
		"Lost": {reason: firerunner.ReasonVMLost, test: func(t *testing.T, h *house) {
			h.daemon.dead.Store(true)
			h.stop()
			require.NoError(t, h.driver.Destroy(t.Context(), h.runners()[0].ID))
			h.start()
		}},
		"Deadline": {reason: firerunner.ReasonDeadline, test: func(t *testing.T, h *house) {
			h.later(time.Hour + 3*time.Minute)
			require.NoError(t, h.control.Expire(t.Context()))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			let := make(chan struct{})
			h := newHouse(t, options{script: once(taken(let, tt.after)), change: func(c *control.Config) { c.StopGrace = 10 * time.Millisecond }})
			ids := h.push(small + retried)
			h.awaitRunner("running with a key", withKey)
			token := h.gitlab.JobToken(ids[0])
			close(let)
			if tt.test != nil {
				tt.test(t, h)
			}
			h.awaitJobs(gitlabtest.StatusFailed, ids...)
			j, _ := h.gitlab.Job(ids[0])
			require.Equal(t, firerunner.SystemFailure, j.FailureReason)
			require.Contains(t, h.gitlab.Trace(ids[0]), "FireRunner: the microVM of this job is gone ("+string(tt.reason)+")")

			h.until("GitLab's retry has run", func() bool { return len(h.gitlab.Jobs(gitlabtest.JobFilter{})) == 2 })
			again := h.gitlab.Jobs(gitlabtest.JobFilter{})[1]
			h.awaitJobs(gitlabtest.StatusSuccess, again.ID)
			h.nothingLeft()
			h.ranOnce(ids[0], again.ID)
			rs := h.runners()
			require.Len(t, rs, 2)
			require.Equal(t, tt.reason, rs[0].Reason)
			told := h.events(firerunner.EventFailedFor)
			require.Len(t, told, 1)
			require.Equal(t, tt.reason, told[0].Reason)
			require.Equal(t, ids[0], told[0].JobID)
			require.Contains(t, told[0].Message, "GitLab was told that job")
			known, err := h.store.Job(t.Context(), ids[0])
			require.NoError(t, err)
			require.Equal(t, firerunner.JobFailed, known.Status, "it was read again")
			for _, r := range rs {
				require.Empty(t, r.JobKey, "nothing is kept of the key")
			}
			require.NotContains(t, h.describe(), token)
		})
	}
}

// Where somebody has the last word on the job already, FireRunner has none.
func TestFailedIsNotTold(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		after func(*guest, job) error
		test  func(*house, int64)
		want  gitlabtest.Status
	}{
		"the guest said how it ended": {want: gitlabtest.StatusRunning, after: func(g *guest, j job) error {
			g.report(firerunner.ReportJobDone, j.ID, true)
			return http.ErrAbortHandler // and dies before it tells GitLab
		}},
		"GitLab knows": {want: gitlabtest.StatusSuccess, after: func(g *guest, j job) error {
			if err := g.succeed(j); err != nil {
				return err
			}
			return http.ErrAbortHandler // and dies before it says so here
		}},
		"cancelled": {want: gitlabtest.StatusCanceled, test: func(h *house, id int64) {
			require.NoError(h.t, h.gitlab.CancelJob(id))
			h.driver.Kill(h.runners()[0].ID)
		}},
		"an older agent": {want: gitlabtest.StatusRunning, test: func(h *house, _ int64) { h.driver.Kill(h.runners()[0].ID) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			let := make(chan struct{})
			play := taken(let, tt.after)
			h := newHouse(t, options{script: func(g *guest) error {
				g.silent = name == "an older agent"
				return play(g)
			}})
			ids := h.push(small)
			h.awaitRunner("running", inState(firerunner.Running))
			close(let)
			if tt.test != nil {
				tt.test(h, ids[0])
			}
			h.nothingLeft()
			h.awaitJobs(tt.want, ids...)
			require.Empty(t, h.events(firerunner.EventFailedFor))
			require.NotContains(t, h.gitlab.Trace(ids[0]), "FireRunner:")
			j, _ := h.gitlab.Job(ids[0])
			require.Zero(t, j.Updates["failed"])
		})
	}
}

// While GitLab is away the microVM is removed and GitLab is told later, once.
func TestFailedIsToldLater(t *testing.T) {
	t.Parallel()
	let := make(chan struct{})
	h := newHouse(t, options{script: taken(let, nil)})
	ids := h.push(small)
	r := h.awaitRunner("running with a key", withKey)
	fault, err := h.gitlab.AddFault(gitlabtest.Fault{Action: gitlabtest.FaultStatus, Status: http.StatusBadGateway, Method: http.MethodPut, Path: "/api/v4/jobs/*"})
	require.NoError(t, err)
	h.driver.Kill(r.ID)
	h.until("the microVM is removed", func() bool {
		vms, err := h.driver.List(t.Context())
		return err == nil && len(vms) == 0
	})
	require.Equal(t, firerunner.Stopping, h.runners()[0].State)
	require.NotEmpty(t, h.runners()[0].JobKey)
	require.Len(t, h.ours(), 1)
	h.gitlab.RemoveFault(fault)
	h.awaitJobs(gitlabtest.StatusFailed, ids...)
	h.nothingLeft()
	require.Len(t, h.events(firerunner.EventFailedFor), 1)
}

// What cannot be told is said, and holds nothing up.
func TestFailedCannotBeTold(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		before func(*house)
		after  func(*house)
		says   string
	}{
		"GitLab takes it from nobody": {says: "could not be told within 10m0s", before: func(h *house) {
			_, err := h.gitlab.AddFault(gitlabtest.Fault{Action: gitlabtest.FaultStatus, Status: http.StatusBadGateway, Method: http.MethodPut, Path: "/api/v4/jobs/*"})
			require.NoError(h.t, err)
		}, after: func(h *house) {
			h.awaitRunner("stopping", inState(firerunner.Stopping))
			h.later(11 * time.Minute)
		}},
		"the token was replaced": {says: "its key does not open", before: func(h *house) {
			h.seals = firerunner.NewSealKeys(func() (firerunner.Secret, error) { return "glpat-the-next", nil })
			h.restart()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			let := make(chan struct{})
			h := newHouse(t, options{script: taken(let, nil)})
			ids := h.push(small)
			r := h.awaitRunner("running with a key", withKey)
			tt.before(h)
			h.driver.Kill(r.ID)
			if tt.after != nil {
				tt.after(h)
			}
			h.nothingLeft()
			h.awaitJobs(gitlabtest.StatusRunning, ids...) // for GitLab's own sweep
			told := h.events(firerunner.EventFailedFor)
			require.Len(t, told, 1)
			require.Contains(t, told[0].Message, tt.says)
		})
	}
}

// A key that a guest hands out for a job of another runner is of no use: it has no token of that job, and GitLab says whose
// the job is.
func TestFailedForAnotherIsNotTold(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	h := newHouse(t, options{script: workAfter(gate)})
	victims := h.push(small)
	h.awaitRunner("running", inState(firerunner.Running))
	let := make(chan struct{})
	h.play(func(g *guest) error {
		g.hello()
		g.last = job{ID: victims[0], Token: "glcbt-a-guess"}
		g.took(victims[0])
		<-let
		return http.ErrAbortHandler
	})
	h.push(large)
	h.awaitRunner("running with somebody else's job", func(r firerunner.Runner) bool {
		return r.JobKey != "" && len(h.runners()) == 2 && r.ID == h.runners()[1].ID
	})
	close(let)
	h.until("the liar is gone", func() bool { return h.runners()[1].State == firerunner.Gone })
	h.awaitJobs(gitlabtest.StatusRunning, victims...)
	h.play(work)
	close(gate)
	h.awaitJobs(gitlabtest.StatusSuccess, victims...)
	h.ranOnce(victims...)
}
