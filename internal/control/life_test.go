package control_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// The whole life of a runner, as its events tell it.
func TestLifeOK(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	h := newHouse(t, options{script: workAfter(gate)})
	ids := h.push(small)
	h.awaitRunner("running", inState(firerunner.Running))
	close(gate)
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.nothingLeft()
	h.ranOnce(ids...)

	rs := h.runners()
	require.Len(t, rs, 1)
	r := rs[0]
	require.Equal(t, firerunner.Succeeded, r.Outcome)
	require.Equal(t, firerunner.ReasonJobDone, r.Reason)
	require.Equal(t, ids[0], r.JobID)
	require.Equal(t, firerunner.Size{VCPUs: 1, MemoryMiB: 1024, DiskMiB: 4096}, r.Size)

	events, err := h.store.Events(t.Context(), firerunner.EventQuery{RunnerID: r.ID})
	require.NoError(t, err)
	var moves []string
	for _, e := range events {
		if e.Kind == firerunner.EventMoved {
			moves = append(moves, fmt.Sprintf("%s>%s by %s", e.From, e.To, e.Actor))
		}
	}
	require.Equal(t, []string{
		"queued>placed by placement", "placed>creating by provision", "creating>booting by provision",
		"booting>ready by watch", "ready>running by watch", "running>stopping by watch", "stopping>gone by stop",
	}, moves)
	for _, kind := range []firerunner.EventKind{firerunner.EventQueued, firerunner.EventCredential, firerunner.EventTookJob, firerunner.EventUnwanted} {
		n := 0
		for _, e := range events {
			if e.Kind == kind {
				n++
			}
		}
		require.Equal(t, 1, n, "events of kind %s", kind)
	}
	require.Equal(t, 1, len(slices.DeleteFunc(slices.Clone(events), func(e firerunner.Event) bool {
		return e.Kind != firerunner.EventNotice || !strings.Contains(e.Message, "image: and services: are not honoured")
	})), "its user is told, once, what does not work")
	job, err := h.store.Job(t.Context(), ids[0])
	require.NoError(t, err)
	h.until("GitLab's last word is known", func() bool {
		job, err = h.store.Job(t.Context(), ids[0])
		return err == nil && job.Status == firerunner.JobSuccess
	})
	require.Equal(t, r.ID, job.RunnerID)
	require.Equal(t, "group/app", job.ProjectPath)
}

// As many runners as jobs, of each set of tags, and each job runs once.
func TestSupplyEqualsDemand(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	h := newHouse(t, options{script: func(g *guest) error {
		if !g.wait(gate) {
			return nil
		}
		return work(g)
	}})
	ids := h.push(small, large, small, large, small, large, small)
	of := func(tags firerunner.TagSet) (n int) {
		for _, r := range h.runners() {
			if r.Demand.Tags == tags {
				n++
			}
		}
		return n
	}
	h.until("every runner boots", func() bool {
		rs := h.runners()
		for _, r := range rs {
			if r.State != firerunner.Booting {
				return false
			}
		}
		return len(rs) == len(ids)
	})
	require.Equal(t, 4, of(small))
	require.Equal(t, 3, of(large))
	for range 3 { // more hints and sweeps change nothing
		h.hint(ids...)
		require.NoError(t, h.control.Sweep(t.Context()))
	}
	close(gate)
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.nothingLeft()
	h.ranOnce(ids...)
	require.Len(t, h.runners(), len(ids))
}

// GitLab gives a job to any runner that fits: the one that was made for the first job takes the second, and the other
// way round. Nobody is ended for it.
func TestSwap(t *testing.T) {
	t.Parallel()
	second := make(chan struct{})
	first := make(chan struct{}, 1)
	first <- struct{}{}
	h := newHouse(t, options{script: func(g *guest) error {
		g.hello()
		select {
		case <-first: // whoever boots first waits until the other has taken the oldest job
			if !g.wait(second) {
				return nil
			}
			j, err := g.take()
			if err != nil {
				return g.exit(1, err.Error())
			}
			g.took(j.ID)
			return g.finish(j)
		default:
		}
		j, err := g.take()
		if err != nil {
			return g.exit(1, err.Error())
		}
		g.took(j.ID)
		if err := g.succeed(j); err != nil {
			return err
		}
		close(second)
		g.report(firerunner.ReportJobDone, j.ID, true)
		return g.exit(0, "")
	}})
	ids := h.push(small)
	h.awaitRunner("ready", inState(firerunner.Ready))
	ids = append(ids, h.push(small)...)
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.nothingLeft()
	h.ranOnce(ids...)
	rs := h.runners()
	require.Len(t, rs, 2)
	require.Equal(t, ids[1], rs[0].JobID)
	require.Equal(t, ids[0], rs[1].JobID)
	for _, r := range rs {
		require.Equal(t, firerunner.Succeeded, r.Outcome)
	}
}

// A job that is cancelled while its runner boots ends that runner.
func TestCancelledBeforePickUp(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{script: func(g *guest) error {
		<-g.ctx.Done()
		return nil
	}})
	ids := h.push(small, small)
	h.until("two boot", func() bool {
		rs := h.runners()
		return len(rs) == 2 && rs[0].State == firerunner.Booting && rs[1].State == firerunner.Booting
	})
	require.NoError(t, h.gitlab.CancelJob(ids[0]))
	gone := h.awaitRunner("gone", inState(firerunner.Gone))
	require.Equal(t, firerunner.Cancelled, gone.Outcome)
	require.Equal(t, firerunner.ReasonNoDemand, gone.Reason)
	require.Len(t, h.live(), 1, "the other job still wants one")

	// One is cancelled and another begins to wait at once: the microVM that boots serves it.
	kept := h.live()[0]
	ids = append(ids, h.push(small)...)
	h.until("two again", func() bool { return len(h.live()) == 2 })
	require.NoError(t, h.gitlab.CancelJob(ids[1]))
	h.until("one again", func() bool { return len(h.live()) == 1 })
	require.NoError(t, h.gitlab.CancelJob(ids[2]))
	h.nothingLeft()
	for _, r := range h.runners() {
		require.Equal(t, firerunner.Cancelled, r.Outcome)
	}
	require.NotEmpty(t, kept.ID)
}

// A surplus that is ready is told to GitLab before it ends: paused, and asked for its job.
func TestReadySurplusIsRetired(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{})
	gate := make(chan struct{})
	h.play(func(g *guest) error {
		g.hello()
		g.wait(gate)
		return work(g)
	})
	ids := h.push(small)
	h.awaitRunner("ready", inState(firerunner.Ready))
	require.NoError(t, h.gitlab.CancelJob(ids[0]))
	h.nothingLeft()
	r := h.runners()[0]
	require.Equal(t, firerunner.Cancelled, r.Outcome)
	require.Equal(t, firerunner.ReasonNoDemand, r.Reason)
	require.Equal(t, 1, h.gitlab.Requests()["PUT /api/v4/runners/{id}"], "it was paused first")
	require.Zero(t, r.JobID)
}
