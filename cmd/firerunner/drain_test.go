package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// Drain ends with 0 killed: what runs finishes, nothing new begins, webhooks are still taken, a restart changes nothing of
// it, and accept lets the rest run.
func TestDrain(t *testing.T) {
	t.Parallel()
	p := newPlant(t, 3*time.Second, "scheduler: {worker_count: 3, vcpus: 8, memory_mb: 8192}\nsweep: {interval: 1h}\n")
	p.start()
	jobs := p.push(8)
	p.eventually("three running jobs", func() bool {
		return len(p.runners(firerunner.RunnerQuery{States: []firerunner.State{firerunner.Running}})) == 3
	})

	status, out, said := p.run("drain", "--timeout", "1ms")
	require.Equal(t, 6, status, said)
	require.Contains(t, said, "3 microVMs left (3 running)")
	require.Contains(t, said, "hint: microVMs end only while")
	require.Contains(t, out, ": running since ")

	status, out, said = p.run("drain", "--json")
	require.Zero(t, status, said)
	var v drainView
	require.NoError(t, json.Unmarshal([]byte(out), &v))
	require.Equal(t, "drained", v.State)
	require.Empty(t, v.Left)
	require.Equal(t, 5, v.Waits)
	require.Equal(t, "draining", v.Hosts[0].State)
	require.Contains(t, said, "firerunner: draining: 3 microVMs left (3 running)")

	begun := p.runners(firerunner.RunnerQuery{Outcome: firerunner.Succeeded})
	require.Len(t, begun, 3, "nothing new began")
	require.Empty(t, p.killed())
	for _, r := range begun {
		j, _ := p.gitlab.Job(r.JobID)
		require.Equal(t, gitlabtest.StatusSuccess, j.Status)
	}

	p.stop()
	p.start()
	more := p.push(1)
	_, err := p.gitlab.WaitDelivery(t.Context(), p.hook.ID, func(d gitlabtest.HookDelivery) bool {
		return d.JobID == more[0] && d.BuildStatus == gitlabtest.StatusPending && d.Status/100 == 2
	})
	require.NoError(t, err)
	p.eventually("a runner for the new job, with the reason why it waits", func() bool {
		waiting := p.runners(firerunner.RunnerQuery{States: []firerunner.State{firerunner.Queued}})
		return len(waiting) == 6 && waiting[5].Message == "1 host: draining"
	})
	require.Len(t, p.runners(firerunner.RunnerQuery{Outcome: firerunner.Succeeded}), 3)

	status, out, said = p.run("accept")
	require.Zero(t, status, said)
	require.Contains(t, out, "accepting: 1 hosts, 0 microVMs left, ")
	p.succeed(append(jobs, more...))
	require.Empty(t, p.killed())
}
