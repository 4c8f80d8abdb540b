package control_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

func hurried() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// Those without a job end at once; the one with a job may finish; nothing new begins.
func TestShutdownOK(t *testing.T) {
	t.Parallel()
	gate, boot := make(chan struct{}), make(chan struct{})
	h := newHouse(t, options{script: workAfter(gate), host: &firerunner.Host{Name: "here", VCPUs: 3, MemoryMiB: 65536, Slots: 3}})
	ids := h.push(small)
	running := h.awaitRunner("running", inState(firerunner.Running))
	h.play(once(func(g *guest) error { // one is ready, one boots, one waits for a host
		g.hello()
		g.wait(boot)
		return waitForEnd(g)
	}))
	ids = append(ids, h.push(small)...)
	h.awaitRunner("ready", inState(firerunner.Ready))
	h.play(waitForEnd)
	ids = append(ids, h.push(small, small)...)
	h.awaitRunner("booting", inState(firerunner.Booting))
	h.awaitRunner("queued", func(r firerunner.Runner) bool {
		return r.State == firerunner.Queued && r.Message != "waits for placement"
	})

	left := make(chan int, 1)
	go func() {
		left <- h.control.Shutdown(context.Background(), context.Background(), time.Minute, time.Minute)
	}()
	h.until("only the one that runs is left", func() bool { return len(h.live()) == 1 })
	require.Equal(t, running.ID, h.live()[0].ID)
	require.Equal(t, firerunner.Wanted, h.live()[0].Desired)
	h.hint(ids...)
	close(gate)
	require.Zero(t, receive(t, left))
	h.awaitJobs(gitlabtest.StatusSuccess, ids[0])
	h.nothingLeft()
	require.Len(t, h.runners(), 4, "nothing new began")
	for _, r := range h.runners()[1:] {
		require.Equal(t, firerunner.Cancelled, r.Outcome)
		require.Equal(t, firerunner.ReasonShutdown, r.Reason)
	}
}

// Hurry cuts the grace short: the job is stopped, and GitLab hears of it.
func TestShutdownHurry(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{script: workAfter(nil)})
	ids := h.push(small)
	h.awaitRunner("running", inState(firerunner.Running))
	require.Zero(t, h.control.Shutdown(context.Background(), hurried(), time.Hour, time.Minute))
	h.nothingLeft()
	h.awaitJobs(gitlabtest.StatusFailed, ids...)
	require.Equal(t, []firerunner.GuestOrder{firerunner.OrderStop}, h.guests[0].orders)
}

// What cannot be ended in time is counted, and the next start takes it up.
func TestShutdownLeaves(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{script: func(g *guest) error { // it does not obey
		g.hello()
		j, err := g.take()
		if err != nil {
			return err
		}
		g.took(j.ID)
		return waitForEnd(g)
	}})
	h.push(small)
	h.awaitRunner("running", inState(firerunner.Running))
	require.Equal(t, 1, h.control.Shutdown(context.Background(), hurried(), time.Hour, time.Millisecond))
	h.restart()
	h.nothingLeft()
	require.Equal(t, firerunner.ReasonShutdown, h.runners()[0].Reason)
}

// Close ends the daemon and touches no microVM.
func TestCloseLeavesMicroVMs(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	h := newHouse(t, options{script: workAfter(gate)})
	ids := h.push(small)
	r := h.awaitRunner("running", inState(firerunner.Running))
	h.stop()
	vms, err := h.driver.List(t.Context())
	require.NoError(t, err)
	require.Len(t, vms, 1)
	require.True(t, vms[0].Alive)
	close(gate) // the job ends while nobody looks
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.start()
	h.nothingLeft()
	r, err = h.store.Runner(t.Context(), r.ID)
	require.NoError(t, err)
	require.Equal(t, firerunner.Succeeded, r.Outcome)
	require.NotEmpty(t, h.events(firerunner.EventDaemon))
}

// Start runs the periodic tasks by itself, at once; Close ends them.
func TestStartOK(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{noHooks: true})
	h.stop()
	h.update(func(ctx context.Context, tx firerunner.Tx) error {
		return tx.SaveProject(ctx, firerunner.Project{ID: h.project.ID, SeenAt: h.now()})
	})
	ids := h.push(small)
	h.startWith(true)
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.hint(ids...)
	h.nothingLeft()
}
