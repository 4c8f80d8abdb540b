package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

const trivial = "trivial:\n  script: ['true']\n"

// TestHooks has GitLab's webhooks come twice, out of order and late. There is no sweep that could help. And GitLab makes
// the runner and fails to say so: nobody has its token, and nobody may keep it.
func TestHooks(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	var faults []int64
	for _, f := range []gitlabtest.Fault{
		{Action: gitlabtest.FaultReorder, BuildStatus: gitlabtest.StatusCreated}, // after "pending"
		{Action: gitlabtest.FaultDouble, BuildStatus: gitlabtest.StatusPending},
		{Action: gitlabtest.FaultDelay, BuildStatus: gitlabtest.StatusRunning, Delay: 20 * time.Second}, // after "success"
		{Action: gitlabtest.FaultDouble, BuildStatus: gitlabtest.StatusSuccess},
	} {
		f.Hook = true
		id, err := s.gitlab.AddFault(f)
		require.NoError(t, err)
		faults = append(faults, id)
	}
	ambiguous, err := s.gitlab.AddFault(gitlabtest.Fault{Action: gitlabtest.FaultResetAfter, Method: "POST", Path: "/api/v4/user/runners", Count: 1})
	require.NoError(t, err)
	j := s.succeeded(s.only(trivial).ID)
	ctx, cancel := s.patiently()
	defer cancel()
	require.NoError(t, s.gitlab.WaitHooks(ctx))
	s.quiet() // no runner is left in GitLab: the orphan is gone too
	require.Equal(t, 1, s.struck(ambiguous))
	require.Equal(t, 2, s.gitlab.Requests()["POST /api/v4/user/runners"])
	for i, id := range faults {
		require.Positive(t, s.struck(id), "fault %d never struck", i)
	}
	require.Len(t, j.Handouts, 1)
	require.Len(t, s.rows(firerunner.RunnerQuery{}), 1, "one job, one runner")
	require.Equal(t, firerunner.JobSuccess, s.known(j.ID).Status)
	// Every delivery that arrived was answered well, the second of a pair too.
	for _, d := range s.gitlab.Deliveries(s.hook.ID) {
		require.Equal(t, 2, d.Status/100, "delivery %d: %d %s", d.ID, d.Status, d.Error)
	}
}

// TestHooksLost has no hook arrive at all: the sweep finds the job, and its end.
func TestHooksLost(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{settings: []string{"sweep.interval=2s", "gitlab.projects=group/app"}})
	_, err := s.gitlab.AddFault(gitlabtest.Fault{Hook: true, Action: gitlabtest.FaultDrop})
	require.NoError(t, err)
	j := s.only(trivial)
	s.succeeded(j.ID)
	s.quiet()
	s.eventually("the sweep's word that the job has ended", func() bool { return s.known(j.ID).Status == firerunner.JobSuccess })
	for _, d := range s.gitlab.Deliveries(s.hook.ID) {
		require.True(t, d.Dropped)
	}
	require.Equal(t, "sweep", s.events(firerunner.EventQuery{JobID: j.ID, Kinds: []firerunner.EventKind{firerunner.EventJobSeen}})[0].Actor)

	unlucky := s.only("unlucky:\n  script: ['true']\n")
	r := s.inState(firerunner.Booting)
	require.NoError(t, s.gitlab.CancelJob(unlucky.ID))
	s.ended(r.ID, firerunner.Cancelled, firerunner.ReasonNoDemand)
}

// TestRefusedSize has a job ask for what it cannot have: that is said in seconds, and not left pending in silence.
func TestRefusedSize(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	began := time.Now()
	j := s.only("huge:\n  tags: [firecracker-64cpu-512gb]\n  script: ['true']\n")
	var refusals []firerunner.Event
	s.eventually("a refusal", func() bool {
		refusals = s.events(firerunner.EventQuery{JobID: j.ID, Kinds: []firerunner.EventKind{firerunner.EventJobRefused}})
		return len(refusals) > 0
	})
	require.Less(t, refusals[0].At.Sub(began), 2*time.Second)
	require.Equal(t, firerunner.ReasonSizeRefused, refusals[0].Reason)
	require.Contains(t, refusals[0].Message, "64")
	s.eventually("a line in the log", func() bool { // it is written once the event is true
		lines, _ := s.log()
		return slices.ContainsFunc(lines, func(l logLine) bool {
			return l.Kind == string(firerunner.EventJobRefused) && l.Job == j.ID && l.Reason == string(firerunner.ReasonSizeRefused)
		})
	})
	require.Empty(t, s.rows(firerunner.RunnerQuery{}))
	require.NoError(t, s.gitlab.CancelJob(j.ID))
}

// known is a job as FireRunner knows it.
func (s *site) known(id int64) firerunner.Job {
	s.t.Helper()
	j, err := s.store.Job(s.t.Context(), id)
	require.NoError(s.t, err, fmt.Sprintf("job %d", id))
	return j
}

// struck says how often a fault did strike.
func (s *site) struck(id int64) int {
	for _, f := range s.gitlab.Faults() {
		if f.ID == id {
			return f.Struck
		}
	}
	return 0
}
