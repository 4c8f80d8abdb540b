package control_test

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

const makeRunner = "/api/v4/user/runners"

// Whatever happens to the call that makes the runner in GitLab: the job runs once, there is never more than one runner
// of it that is not an orphan, and no orphan is left.
func TestCredentialFaults(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]gitlabtest.Fault{
		"ErrBadGateway":      {Action: gitlabtest.FaultStatus, Status: http.StatusBadGateway},
		"ErrReset":           {Action: gitlabtest.FaultResetBefore},
		"ErrResetAfter":      {Action: gitlabtest.FaultResetAfter},
		"ErrBadGatewayAfter": {Action: gitlabtest.FaultStatusAfter, Status: http.StatusBadGateway},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gate := make(chan struct{})
			h := newHouse(t, options{script: workAfter(gate)})
			fault.Method, fault.Path, fault.Count = http.MethodPost, makeRunner, 1
			_, err := h.gitlab.AddFault(fault)
			require.NoError(t, err)
			ids := h.push(small)
			h.awaitRunner("running", inState(firerunner.Running))
			require.Equal(t, 1, h.gitlab.Faults()[0].Struck)
			require.Len(t, h.ours(), 1, "one live runner in GitLab")
			close(gate)
			h.awaitJobs(gitlabtest.StatusSuccess, ids...)
			h.nothingLeft()
			h.ranOnce(ids...)
			require.Len(t, h.runners(), 1, "it was tried again, not replaced")
		})
	}
}

// Where GitLab refuses, trying again at once would not help: rejected, with the reason.
func TestCredentialRefused(t *testing.T) {
	t.Parallel()
	for name, status := range map[string]int{"ErrUnauthorized": http.StatusUnauthorized, "ErrForbidden": http.StatusForbidden, "ErrNotFound": http.StatusNotFound} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, options{})
			_, err := h.gitlab.AddFault(gitlabtest.Fault{Action: gitlabtest.FaultStatus, Status: status, Method: http.MethodPost, Path: makeRunner})
			require.NoError(t, err)
			ids := h.push(small)
			r := h.awaitRunner("gone", inState(firerunner.Gone))
			require.Equal(t, firerunner.Rejected, r.Outcome)
			require.Equal(t, firerunner.ReasonCredential, r.Reason)
			require.NotEmpty(t, r.Message)
			h.gitlab.ClearFaults()
			h.later(time.Minute) // the pause is over
			h.hint(ids...)
			h.awaitJobs(gitlabtest.StatusSuccess, ids...)
			h.nothingLeft()
			h.ranOnce(ids...)
		})
	}
}

// A rate limit is not a failure: the step comes back when GitLab said.
func TestCredentialRateLimited(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{noHooks: true})
	_, err := h.gitlab.AddFault(gitlabtest.Fault{
		Action: gitlabtest.FaultStatus, Status: http.StatusTooManyRequests, Header: map[string]string{"Retry-After": "1"},
		Method: http.MethodPost, Path: makeRunner, Count: 1,
	})
	require.NoError(t, err)
	ids := h.push(small)
	h.hint(ids...)
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.hint(ids...)
	h.nothingLeft()
	require.Len(t, h.runners(), 1)

	// And so is one on reading jobs.
	_, err = h.gitlab.AddFault(gitlabtest.Fault{
		Action: gitlabtest.FaultStatus, Status: http.StatusTooManyRequests, Header: map[string]string{"Retry-After": "7"}, Path: "/api/v4/projects/*/jobs/*",
	})
	require.NoError(t, err)
	err = h.control.Steps()[firerunner.StepReadJob](t.Context(), firerunner.Step{Kind: firerunner.StepReadJob, ProjectID: h.project.ID, JobID: ids[0]})
	after, later := firerunner.IsLater(err)
	require.True(t, later, "%v", err)
	require.GreaterOrEqual(t, after, 5*time.Second)
}

// A runner whose job is cancelled while its credential is made ends as soon as that is done, and takes it along.
func TestCancelledWhileProvisioned(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"gitlab.create:before", "gitlab.create:after", "driver.create:before", "driver.create:after"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, options{})
			reached, goOn := make(chan struct{}), make(chan struct{})
			var once sync.Once
			h.tapping(func(_ context.Context, p string) error {
				if p == point {
					once.Do(func() {
						close(reached)
						<-goOn
					})
				}
				return nil
			})
			ids := h.push(small)
			receive(t, reached)
			require.NoError(t, h.gitlab.CancelJob(ids[0]))
			h.awaitRunner("unwanted", func(r firerunner.Runner) bool { return r.Desired == firerunner.Unwanted })
			close(goOn)
			h.nothingLeft()
			require.Equal(t, firerunner.Cancelled, h.runners()[0].Outcome)
			require.Len(t, h.runners(), 1)
		})
	}
}
