package control_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/control"
	"github.com/firerunner/firerunner/internal/driver/fake"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// once plays first for the first guest and work for all others.
func once(first script) script {
	var n atomic.Int32
	return func(g *guest) error {
		if n.Add(1) == 1 {
			return first(g)
		}
		return work(g)
	}
}

func waitForEnd(g *guest) error {
	<-g.ctx.Done()
	return nil
}

// What fails before a job starts is rejected and replaced: the job runs on the second try.
func TestRejectedAndReplaced(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		opts   options
		first  script
		expire time.Duration
		reason firerunner.Reason
	}{
		"ErrGuest": {reason: firerunner.ReasonGuestError, first: func(g *guest) error {
			g.say(firerunner.GuestReport{Kind: firerunner.ReportHello})
			g.say(firerunner.GuestReport{Kind: firerunner.ReportError, Message: "no disk"})
			return waitForEnd(g)
		}},
		"ErrVMExited": {reason: firerunner.ReasonVMExited, first: func(*guest) error { return errors.New("kernel panic") }},
		"ErrRunnerExited": {reason: firerunner.ReasonRunnerExited, first: func(g *guest) error {
			g.hello()
			return g.exit(3, "bad configuration")
		}},
		"ErrRunnerExitedEarly": {reason: firerunner.ReasonRunnerExited, first: func(g *guest) error {
			g.hello()
			return g.exit(0, "gave up")
		}},
		"ErrNeverHello": {reason: firerunner.ReasonDeadline, first: waitForEnd, expire: 61 * time.Second},
		"ErrImage": {reason: firerunner.ReasonCreateFailed, opts: options{change: func(c *control.Config) {
			var n atomic.Int32
			image := c.Image
			c.Image = func(ctx context.Context, name string) (firerunner.Image, error) {
				if n.Add(1) == 1 {
					return firerunner.Image{}, firerunner.Errorf(firerunner.NotFound, "there is no image %s", name)
				}
				return image(ctx, name)
			}
		}}},
		"ErrDriver": {reason: firerunner.ReasonCreateFailed, opts: options{driver: failing(1)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tt.first != nil {
				tt.opts.script = once(tt.first)
			}
			h := newHouse(t, tt.opts)
			ids := h.push(small)
			if tt.expire > 0 {
				h.awaitRunner("booting", inState(firerunner.Booting))
				require.NoError(t, h.control.Expire(t.Context()))
				require.Equal(t, firerunner.Wanted, h.runners()[0].Desired, "it still has time")
				h.later(tt.expire)
				require.NoError(t, h.control.Expire(t.Context()))
			}
			r := h.awaitRunner("gone", inState(firerunner.Gone))
			require.Equal(t, firerunner.Rejected, r.Outcome)
			require.Equal(t, tt.reason, r.Reason)
			require.NotEmpty(t, r.Message)
			require.Zero(t, r.JobID)
			h.later(3 * time.Second) // the first pause is over
			h.hint(ids...)
			h.awaitJobs(gitlabtest.StatusSuccess, ids...)
			h.nothingLeft()
			h.ranOnce(ids...)
			require.Len(t, h.runners(), 2)
		})
	}
}

// failing is a driver whose first creations fail.
func failing(times int32) fake.Config {
	var n atomic.Int32
	return fake.Config{CreateErr: func(firerunner.MicroVMSpec) error {
		if n.Add(1) <= times {
			return firerunner.Errorf(firerunner.Unavailable, "no room on the disk").WithHint("make room")
		}
		return nil
	}}
}

// What fails after a job started is failed, or lost, and never run again.
func TestFailedIsNeverRunAgain(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		after   func(*guest) error // once the job runs
		test    func(*testing.T, *house)
		outcome firerunner.Outcome
		reason  firerunner.Reason
	}{
		"ErrVMExited":     {outcome: firerunner.Failed, reason: firerunner.ReasonVMExited, test: func(_ *testing.T, h *house) { h.driver.Kill(h.runners()[0].ID) }},
		"ErrGuest":        {outcome: firerunner.Failed, reason: firerunner.ReasonGuestError, after: func(g *guest) error { g.report(firerunner.ReportError, 0, false); return waitForEnd(g) }},
		"ErrRunnerExited": {outcome: firerunner.Failed, reason: firerunner.ReasonRunnerExited, after: func(g *guest) error { return g.exit(2, "killed") }},
		"ErrLost": {outcome: firerunner.Lost, reason: firerunner.ReasonVMLost, test: func(t *testing.T, h *house) {
			// The daemon is away; meanwhile the microVM goes without a trace.
			h.daemon.dead.Store(true)
			h.stop()
			require.NoError(t, h.driver.Destroy(t.Context(), h.runners()[0].ID))
			h.start()
		}},
		"ErrDeadline": {outcome: firerunner.Failed, reason: firerunner.ReasonDeadline, test: func(t *testing.T, h *house) {
			h.later(time.Hour + 3*time.Minute)
			require.NoError(t, h.control.Expire(t.Context()))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			running := make(chan struct{})
			h := newHouse(t, options{script: func(g *guest) error {
				g.hello()
				j, err := g.take()
				if err != nil {
					return err
				}
				g.took(j.ID)
				if tt.after == nil {
					return waitForEnd(g)
				}
				<-running
				return tt.after(g)
			}})
			ids := h.push(small)
			h.awaitRunner("running", inState(firerunner.Running))
			close(running)
			if tt.test != nil {
				tt.test(t, h)
			}
			r := h.awaitRunner("gone", inState(firerunner.Gone))
			require.Equal(t, tt.outcome, r.Outcome)
			require.Equal(t, tt.reason, r.Reason)
			require.Equal(t, ids[0], r.JobID)
			h.hint(ids...)
			require.NoError(t, h.control.Sweep(t.Context()))
			require.NoError(t, h.control.Reap(t.Context()))
			h.nothingLeft()
			require.Len(t, h.runners(), 1, "never run again")
			h.ranOnce(ids...)
		})
	}
}

// A job that fails by itself is an outcome, not a fault.
func TestJobFails(t *testing.T) {
	t.Parallel()
	known := make(chan struct{})
	h := newHouse(t, options{script: func(g *guest) error {
		g.hello()
		j, err := g.take()
		if err != nil {
			return err
		}
		g.took(j.ID)
		g.say(firerunner.GuestReport{Kind: firerunner.ReportNotice, Message: "almost there"})
		g.say(firerunner.GuestReport{Kind: firerunner.ReportJobDone, JobID: j.ID, Failure: "script_failure", ExitCode: 3})
		g.say(firerunner.GuestReport{Kind: firerunner.ReportJobDone, JobID: j.ID, Success: true}) // it changes its mind
		g.wait(known)
		if err := g.fail(j, "script_failure"); err != nil {
			return err
		}
		return g.exit(0, "")
	}})
	ids := h.push(small)
	r := h.awaitRunner("known to have failed", func(r firerunner.Runner) bool { return r.Outcome == firerunner.Failed })
	require.Equal(t, firerunner.Running, r.State, "its gitlab-runner still has to tell GitLab")
	require.LessOrEqual(t, r.Deadline.Sub(h.now()), 2*time.Minute)
	close(known)
	h.nothingLeft()
	h.awaitJobs(gitlabtest.StatusFailed, ids...)
	require.Equal(t, firerunner.Failed, h.runners()[0].Outcome)
}

// A token that loses its project sees 404 for jobs that run; they run on.
func TestLostProjectKillsNothing(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	h := newHouse(t, options{script: workAfter(gate)})
	ids := h.push(small)
	h.awaitRunner("running", func(r firerunner.Runner) bool { return r.State == firerunner.Running && r.JobID == ids[0] })
	h.until("GitLab says whose the job is", func() bool {
		j, err := h.store.Job(t.Context(), ids[0])
		return err == nil && j.RunnerID != ""
	})
	fault, err := h.gitlab.AddFault(gitlabtest.Fault{Action: gitlabtest.FaultStatus, Status: http.StatusNotFound, Method: http.MethodGet, Path: "/api/v4/projects/*/jobs/*"})
	require.NoError(t, err)
	step := firerunner.Step{Kind: firerunner.StepReadJob, ProjectID: h.project.ID, JobID: ids[0]}
	require.NoError(t, h.control.Steps()[step.Kind](t.Context(), step))
	require.Equal(t, firerunner.Wanted, h.runners()[0].Desired)
	h.gitlab.RemoveFault(fault)
	close(gate)
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.nothingLeft()
	require.Len(t, h.runners(), 1)
}

// A running job that is cancelled in GitLab ends its microVM.
func TestCancelledWhileRunning(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{script: workAfter(nil)})
	ids := h.push(small)
	h.awaitRunner("running", inState(firerunner.Running))
	require.NoError(t, h.gitlab.CancelJob(ids[0]))
	h.nothingLeft()
	r := h.runners()[0]
	require.Equal(t, firerunner.Cancelled, r.Outcome)
	require.Equal(t, firerunner.ReasonJobCancelled, r.Reason)
	require.Empty(t, h.guests[0].orders, "GitLab knows: there is nobody to tell")
}

// GitLab gave it no job in time: it goes without a job, unless it took one in this very moment.
func TestReadyExpires(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	h := newHouse(t, options{noHooks: true, script: func(g *guest) error {
		g.hello()
		if !g.wait(gate) {
			return nil
		}
		return waitForEnd(g)
	}})
	ids := h.push(small)
	h.hint(ids...)
	h.awaitRunner("ready", inState(firerunner.Ready))
	h.later(121 * time.Second)
	require.NoError(t, h.control.Expire(t.Context()))
	r := h.awaitRunner("gone", inState(firerunner.Gone))
	require.Equal(t, firerunner.Cancelled, r.Outcome)
	require.Equal(t, firerunner.ReasonNoJob, r.Reason)
	h.play(work)
	h.awaitJobs(gitlabtest.StatusSuccess, ids...) // another took its place
	h.hint(ids...)
	h.nothingLeft()
}
