package firerunner_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

var noon = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func TestRunnerByState(t *testing.T) {
	t.Parallel()
	for _, want := range []struct {
		state                  firerunner.State
		live, supply, reserves bool
	}{
		{firerunner.Queued, true, true, false},
		{firerunner.Placed, true, true, true},
		{firerunner.Creating, true, true, true},
		{firerunner.Booting, true, true, true},
		{firerunner.Ready, true, true, true},
		{firerunner.Running, true, false, true},
		{firerunner.Stopping, true, false, true},
		{firerunner.Gone, false, false, false},
	} {
		r := firerunner.NewRunner("r0", firerunner.Demand{}, noon)
		r.State = want.state
		require.Equal(t, want.live, r.Live(), "%s", want.state)
		require.Equal(t, want.supply, r.Supply(), "%s", want.state)
		require.Equal(t, want.reserves, r.Reserves(), "%s", want.state)
		r.JobID = 5
		require.False(t, r.Supply(), "%s: it has a job", want.state)
		r.JobID, r.Desired = 0, firerunner.Unwanted
		require.False(t, r.Supply(), "%s: nobody wants it", want.state)
	}
}

func TestRunnerOverdue(t *testing.T) {
	t.Parallel()
	r := firerunner.NewRunner("r0", firerunner.Demand{}, noon)
	require.False(t, r.Overdue(noon.Add(1000*time.Hour)), "queued has no deadline")
	_, err := r.Move(firerunner.Placed, firerunner.OwnerPlacement, firerunner.DefaultDeadlines(), noon, "")
	require.NoError(t, err)
	require.Equal(t, noon.Add(30*time.Second), r.Deadline)
	require.False(t, r.Overdue(r.Deadline))
	require.True(t, r.Overdue(r.Deadline.Add(1)))
	r.State = firerunner.Gone
	require.False(t, r.Overdue(r.Deadline.Add(1)))
}

func TestRunnerEndFirstWordWins(t *testing.T) {
	t.Parallel()
	r := firerunner.NewRunner("r0", firerunner.Demand{ProjectID: 7}, noon)
	r.JobID = 5
	e, ok := r.End(firerunner.Failed, firerunner.ReasonJobDone, "watch", "exit code 3", noon)
	require.True(t, ok)
	require.Equal(t, firerunner.Event{
		At: noon, Kind: firerunner.EventUnwanted, RunnerID: "r0", JobID: 5, ProjectID: 7,
		From: firerunner.Queued, To: firerunner.Queued, Actor: "watch", Reason: firerunner.ReasonJobDone, Message: "failed: exit code 3",
	}, e)
	before := r
	_, ok = r.End(firerunner.Succeeded, firerunner.ReasonNoDemand, "control", "another word", noon)
	require.False(t, ok)
	require.Equal(t, before, r)
}
