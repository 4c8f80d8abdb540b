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

// A live runner whose microVM is gone is ended though nobody listens to its guest; one whose microVM is there is not.
func TestReapRunnerWithoutMicroVM(t *testing.T) {
	t.Parallel()
	var current *world
	store := modelStore(t, &current)
	current = newWorld(t.Fatalf, store, 1)
	w := current
	w.start()
	w.newJob(firerunner.NewTagSet(small))
	w.newJob(firerunner.NewTagSet(small))
	w.task(w.control.Sweep)
	for len(w.steps) > 0 {
		w.run(0)
	}
	require.Len(t, w.vms, 2)
	var gone, kept string
	for id := range w.vms {
		gone, kept = kept, id
	}
	delete(w.vms, gone)

	found, err := w.control.ReapOnce(t.Context(), control.ReapOptions{DryRun: true})
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, control.LeftRunner, found[0].Kind)
	require.Equal(t, gone, found[0].ID)
	require.Equal(t, firerunner.Booting, state(t, store, gone))
	found, err = w.control.ReapOnce(t.Context(), control.ReapOptions{Grace: time.Minute})
	require.NoError(t, err)
	require.Empty(t, found, "it booted a moment ago")

	w.task(w.control.Reap)
	r, err := store.Runner(t.Context(), gone)
	require.NoError(t, err)
	require.Equal(t, firerunner.Stopping, r.State)
	require.Equal(t, firerunner.Lost, r.Outcome)
	require.Equal(t, firerunner.ReasonVMLost, r.Reason)
	require.Equal(t, firerunner.Booting, state(t, store, kept))
}

func state(t *testing.T, store firerunner.Store, id string) firerunner.State {
	t.Helper()
	r, err := store.Runner(t.Context(), id)
	require.NoError(t, err)
	return r.State
}

// The driver of one machine says nothing about the runners of another.
func TestReapOtherMachine(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{noHooks: true, change: func(c *control.Config) { c.LocalHost = "here" }})
	h.update(func(ctx context.Context, tx firerunner.Tx) error {
		for id, host := range map[string]string{"ofhere": "here", "ofthere": "there"} {
			r := firerunner.NewRunner(id, firerunner.Demand{ProjectID: h.project.ID, Tags: small}, h.now())
			r.State, r.Host = firerunner.Running, host
			if err := tx.CreateRunner(ctx, r); err != nil {
				return err
			}
		}
		return nil
	})
	found, err := h.control.ReapOnce(t.Context(), control.ReapOptions{})
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, "ofhere", found[0].ID)
	require.Equal(t, firerunner.Running, state(t, h.store, "ofthere"))
}

// Runners with our marker are found in projects that we have never heard of; where GitLab does not list all projects at
// once, in those that we know, however long ago.
func TestReapGitLabOK(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{noHooks: true})
	unknown, err := h.gitlab.CreateProject("other/unknown", map[string]string{"README.md": "hello\n"})
	require.NoError(t, err)
	make := func(project int64, description string) int64 {
		return h.gitlab.CreateRunner(gitlabtest.Runner{Type: "project_type", ProjectIDs: []int64{project}, Description: description, Tags: []string{"x"}}).ID
	}
	ours, theirs := make(unknown.ID, "firerunner inst1 stray"), make(unknown.ID, "firerunner inst2 stray")
	found, err := h.control.ReapOnce(t.Context(), control.ReapOptions{DryRun: true})
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, ours, found[0].GitLabID)
	require.Len(t, h.gitlab.Runners(), 2, "nothing is removed")
	require.NoError(t, h.control.Reap(t.Context()))
	require.Len(t, h.gitlab.Runners(), 1)

	young := make(unknown.ID, "firerunner inst1 "+control.NewIDAt(h.now().Add(-time.Second)))
	old := make(h.project.ID, "firerunner inst1 "+control.NewIDAt(h.now().Add(-time.Hour)))
	found, err = h.control.ReapOnce(t.Context(), control.ReapOptions{Grace: time.Minute})
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, old, found[0].GitLabID)
	require.WithinDuration(t, h.now().Add(-time.Hour), found[0].Born, time.Second)

	h.update(func(ctx context.Context, tx firerunner.Tx) error {
		return tx.SaveProject(ctx, firerunner.Project{ID: unknown.ID, Path: unknown.Path, SeenAt: h.now().Add(-300 * 24 * time.Hour)})
	})
	_, err = h.gitlab.AddFault(gitlabtest.Fault{Action: gitlabtest.FaultStatus, Status: http.StatusForbidden, Method: http.MethodGet, Path: "/api/v4/runners"})
	require.NoError(t, err)
	require.NoError(t, h.control.Reap(t.Context()))
	left := h.gitlab.Runners()
	require.Len(t, left, 1)
	require.Equal(t, theirs, left[0].ID)
	require.NotEqual(t, young, left[0].ID)
}

// staleStore lists no runner: whoever listed a moment ago has not seen those that were made since.
type staleStore struct{ firerunner.Store }

func (staleStore) Runners(context.Context, firerunner.RunnerQuery) ([]firerunner.Runner, error) {
	return nil, nil
}

// Each row is read again before anything of it is removed.
func TestReapReadsAgain(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	h := newHouse(t, options{script: workAfter(gate)})
	ids := h.push(small)
	owned := h.awaitRunner("running", inState(firerunner.Running))
	stale, err := control.New(control.Config{
		Store: staleStore{h.store}, GitLab: h.api, Driver: h.driver, Installation: "inst1", GuestURL: h.gitlab.URL(),
		Image: func(context.Context, string) (firerunner.Image, error) { return firerunner.Image{}, nil },
	})
	require.NoError(t, err)
	found, err := stale.ReapOnce(t.Context(), control.ReapOptions{})
	require.NoError(t, err)
	require.Empty(t, found)
	require.Equal(t, firerunner.Running, state(t, h.store, owned.ID))
	require.Len(t, h.ours(), 1)
	close(gate)
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.nothingLeft()
}
