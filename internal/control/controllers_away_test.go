package control_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// TestControllerAway: nothing new goes to the machine of a controller that is away. What had not begun there ends at its
// deadline and begins elsewhere; what runs is left alone until its own; and a record is closed only when its microVM has
// ended by itself for certain.
func TestControllerAway(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	deadlines := firerunner.DefaultDeadlines()
	first := p.newJob(small)
	for range 3 {
		p.newJob(small)
	}
	by := p.provisioned()
	runs, boots := by["m1"][0], by["m1"][1]
	p.hear(runs.ID)
	p.hear(runs.ID)
	runs = p.runner(runs.ID)
	require.Equal(t, firerunner.Running, runs.State)
	require.Equal(t, first, runs.JobID)
	for range 4 { // those of m2 do their jobs, and make room
		p.hear(by["m2"][0].ID, by["m2"][1].ID)
	}
	require.Equal(t, firerunner.Gone, p.runner(by["m2"][0].ID).State)

	p.away["a"], p.lead = true, "b"
	b := p.b.control
	require.NoError(t, b.NoticeAway(t.Context()))
	require.Equal(t, `its controller "a" is away`, p.hostRow("m1").Trouble)
	require.Empty(t, p.hostRow("m2").Trouble)
	p.newJob(small)
	by = p.provisioned()
	require.Len(t, by["m1"], 2, "nothing new")
	require.Len(t, by["m2"], 1)

	p.passTime(deadlines.Booting)
	require.NoError(t, b.Expire(t.Context()))
	p.settle()
	ended := p.runner(boots.ID)
	require.Equal(t, firerunner.Unwanted, ended.Desired)
	require.Equal(t, firerunner.Rejected, ended.Outcome)
	require.Equal(t, firerunner.Booting, ended.State, "nobody can stop it")
	require.Len(t, p.provisioned()["m2"], 2, "its job has a runner elsewhere")

	until := runs.Deadline
	p.passTime(until.Sub(p.now) - time.Second)
	require.NoError(t, b.NoticeAway(t.Context()))
	require.NoError(t, b.Expire(t.Context()))
	require.Equal(t, runs, p.runner(runs.ID), "it runs on by itself")
	p.passTime(2 * time.Second)
	require.NoError(t, b.Expire(t.Context()))
	require.Equal(t, firerunner.Failed, p.runner(runs.ID).Outcome)
	require.Equal(t, firerunner.ReasonDeadline, p.runner(runs.ID).Reason)

	lives := p.vms[runs.ID].spec.Deadline
	require.Equal(t, lives, p.vms[boots.ID].spec.Deadline)
	p.passTime(lives.Sub(p.now))
	require.NoError(t, b.NoticeAway(t.Context()))
	for _, id := range []string{boots.ID, runs.ID} {
		require.NotEqual(t, firerunner.Gone, p.runner(id).State, "its microVM lives until now")
	}
	p.passTime(deadlines.Stopping + time.Minute)
	require.NoError(t, b.NoticeAway(t.Context()))
	for _, id := range []string{boots.ID, runs.ID} {
		r := p.runner(id)
		require.Equal(t, firerunner.Gone, r.State)
		require.NotContains(t, p.runners, r.GitLabID, "nothing of it is left in GitLab")
		require.Contains(t, p.vms, id, "its machine is not reached")
	}
}

// TestControllerAwayAfterALongWait: how long a runner had waited for room says nothing of how long its microVM lives.
func TestControllerAwayAfterALongWait(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	deadlines := firerunner.DefaultDeadlines()
	for range 4 {
		p.newJob(small)
	}
	by := p.provisioned()
	p.newJob(small)
	waited := p.provisioned()[""][0]
	for _, r := range append(by["m1"], by["m2"]...) {
		p.hear(r.ID)
		p.hear(r.ID)
	}
	p.passTime(50 * time.Minute)
	for range 2 {
		p.hear(by["m1"][0].ID) // its job is done: there is room on m1
	}
	p.settle()
	waited = p.runner(waited.ID)
	require.Equal(t, "m1", waited.Host)
	require.Equal(t, firerunner.Booting, waited.State)

	p.away["a"], p.lead = true, "b"
	p.passTime(deadlines.Booting + time.Second)
	require.NoError(t, p.b.control.Expire(t.Context()))
	require.Equal(t, firerunner.Unwanted, p.runner(waited.ID).Desired)
	lives := p.vms[waited.ID].spec.Deadline
	p.passTime(lives.Sub(p.now))
	require.True(t, p.now.After(waited.CreatedAt.Add(deadlines.Life()+deadlines.Stopping)))
	require.NoError(t, p.b.control.NoticeAway(t.Context()))
	require.Equal(t, firerunner.Booting, p.runner(waited.ID).State, "its microVM lives until now")
	p.passTime(deadlines.Stopping + time.Minute)
	require.NoError(t, p.b.control.NoticeAway(t.Context()))
	require.Equal(t, firerunner.Gone, p.runner(waited.ID).State)
}

// TestControllerBack: its machine takes work again, and it goes on with what ran on meanwhile.
func TestControllerBack(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	for range 4 {
		p.newJob(small)
	}
	by := p.provisioned()
	runs := by["m1"][0]
	p.hear(runs.ID)
	p.hear(runs.ID)
	p.away["a"], p.lead = true, "b"
	require.NoError(t, p.b.control.NoticeAway(t.Context()))
	require.NotEmpty(t, p.hostRow("m1").Trouble)
	p.act(runs.ID) // its job is done, and nobody hears of it
	p.passTime(10 * time.Minute)

	p.away["a"] = false
	require.NoError(t, p.b.control.NoticeAway(t.Context()))
	require.Empty(t, p.hostRow("m1").Trouble)
	p.begin(p.a)
	require.Contains(t, p.a.log.String(), "took up 2 live runners")
	p.settle()
	p.hear(runs.ID)
	r := p.runner(runs.ID)
	require.Equal(t, firerunner.Gone, r.State)
	require.Equal(t, firerunner.Succeeded, r.Outcome)
	events, err := p.store.Events(t.Context(), firerunner.EventQuery{Kinds: []firerunner.EventKind{firerunner.EventHost}})
	require.NoError(t, err)
	var said []string
	for _, e := range events {
		said = append(said, e.Message)
	}
	require.Contains(t, fmt.Sprint(said), `takes no new work: its controller "a" is away`)
	require.Contains(t, fmt.Sprint(said), `takes work again: its controller "a" is back`)
}
