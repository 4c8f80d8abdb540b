package control_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/control"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// Jobs that no webhook announced are found, and so is the end of jobs that nobody told.
func TestSweepOK(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	h := newHouse(t, options{noHooks: true, script: func(g *guest) error {
		if !g.wait(gate) {
			return nil
		}
		return work(g)
	}})
	ids := h.push(small, small, "gpu")
	require.NoError(t, h.control.Sweep(t.Context()))
	require.Empty(t, h.runners(), "the project is not known yet")
	h.update(func(ctx context.Context, tx firerunner.Tx) error {
		return tx.SaveProject(ctx, firerunner.Project{ID: h.project.ID, Path: h.project.Path, SeenAt: h.now()})
	})
	require.NoError(t, h.control.Sweep(t.Context()))
	h.until("three boot", func() bool { return len(h.live()) == 3 })

	require.NoError(t, h.gitlab.CancelJob(ids[0])) // and nobody says so
	h.later(time.Second)
	require.NoError(t, h.control.Sweep(t.Context()))
	h.until("two are left", func() bool { return len(h.live()) == 2 })

	close(gate)
	h.awaitJobs(gitlabtest.StatusSuccess, ids[1:]...)
	require.NoError(t, h.control.Sweep(t.Context()))
	h.nothingLeft()
	h.ranOnce(ids[1:]...)
}

// Projects of the configuration are swept before anything is known of them; one that fails does not keep the others.
func TestSweepProjectsOfConfiguration(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{noHooks: true, change: func(c *control.Config) { c.SweepProjects = []int64{999, 1, 2, 3, 4, 5} }})
	ids := h.push(small)
	require.LessOrEqual(t, h.project.ID, int64(5))
	require.Error(t, h.control.Sweep(t.Context()), "project 999 does not exist")
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.hint(ids...)
	h.nothingLeft()
}

// The sweep puts right what no step does: supply that is missing, and a runner whose step was lost.
func TestSweepLevels(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{noHooks: true})
	ids := h.push(small)
	h.update(func(ctx context.Context, tx firerunner.Tx) error {
		job, err := h.api.Job(ctx, h.project.ID, ids[0])
		if err != nil {
			return err
		}
		job.Ours, job.Profile, job.Size = true, firerunner.DefaultProfile, firerunner.Size{VCPUs: 1, MemoryMiB: 1024}
		if _, err = tx.SaveJob(ctx, job); err != nil {
			return err
		}
		forgotten := firerunner.NewRunner("forgotten", firerunner.Demand{ProjectID: h.project.ID, Tags: large}, h.now().Add(-time.Hour))
		forgotten.Desired, forgotten.Outcome = firerunner.Unwanted, firerunner.Cancelled
		return tx.CreateRunner(ctx, forgotten)
	})
	require.NoError(t, h.control.Sweep(t.Context()))
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.hint(ids...)
	h.nothingLeft()
	require.Len(t, h.runners(), 2)
}

// What nobody owns is removed; what is somebody else's is not touched.
func TestReapOK(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	h := newHouse(t, options{script: workAfter(gate)})
	ids := h.push(small)
	owned := h.awaitRunner("running", inState(firerunner.Running))
	h.play(waitForEnd)
	_, err := h.driver.Create(t.Context(), firerunner.MicroVMSpec{ID: "stray", Size: owned.Size, Deadline: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	make := func(description string) int64 {
		return h.gitlab.CreateRunner(gitlabtest.Runner{Type: "project_type", ProjectIDs: []int64{h.project.ID}, Description: description, Tags: []string{"x"}}).ID
	}
	make("firerunner inst1 stray")
	others := []int64{make("firerunner inst2 stray"), make("somebody's own runner"), make("firerunner inst11 stray"), make("my firerunner inst1 x")}

	require.NoError(t, h.control.Reap(t.Context()))
	vms, err := h.driver.List(t.Context())
	require.NoError(t, err)
	require.Len(t, vms, 1)
	require.Equal(t, owned.ID, vms[0].ID)
	require.Len(t, h.ours(), 1)
	require.Len(t, h.events(firerunner.EventReaped), 2)

	close(gate)
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.nothingLeft()
	require.NoError(t, h.control.Reap(t.Context()))
	var left []int64
	for _, r := range h.gitlab.Runners() {
		left = append(left, r.ID)
	}
	require.Equal(t, others, left)
}

// What cannot be removed now is said, and removed the next time.
func TestReapAgain(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{})
	ids := h.push(small)
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.nothingLeft()
	h.gitlab.CreateRunner(gitlabtest.Runner{Type: "project_type", ProjectIDs: []int64{h.project.ID}, Description: "firerunner inst1 stray", Tags: []string{"x"}})
	for _, fault := range []gitlabtest.Fault{
		{Method: http.MethodDelete, Path: "/api/v4/runners/*"}, {Method: http.MethodGet, Path: "/api/v4/runners"},
	} {
		fault.Action, fault.Status = gitlabtest.FaultStatus, http.StatusInternalServerError
		_, err := h.gitlab.AddFault(fault)
		require.NoError(t, err)
		require.Error(t, h.control.Reap(t.Context()))
		require.Len(t, h.ours(), 1)
		h.gitlab.ClearFaults()
	}
	require.NoError(t, h.control.Reap(t.Context()))
	require.Empty(t, h.ours())
}

// Removal is tried until it succeeds, and said to be overdue meanwhile.
func TestStoppingIsTriedUntilItSucceeds(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{})
	id, err := h.gitlab.AddFault(gitlabtest.Fault{
		Action: gitlabtest.FaultStatus, Status: http.StatusInternalServerError, Method: http.MethodDelete, Path: "/api/v4/runners/*",
	})
	require.NoError(t, err)
	ids := h.push(small)
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	r := h.awaitRunner("stopping", inState(firerunner.Stopping))
	for range 2 {
		h.later(61 * time.Second)
		require.NoError(t, h.control.Expire(t.Context()))
	}
	require.Len(t, h.events(firerunner.EventOverdue), 2)
	require.Len(t, h.ours(), 1)
	h.gitlab.RemoveFault(id)
	h.nothingLeft()
	r, err = h.store.Runner(t.Context(), r.ID)
	require.NoError(t, err)
	require.Equal(t, firerunner.Succeeded, r.Outcome)
}
