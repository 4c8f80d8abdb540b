package control_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/control"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// A job that cannot be had is said so once, with the reason, and gets no runner; one that is not ours is left alone.
func TestRefused(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{})
	const foreign = "docker"
	tags := []string{
		"firecracker-64cpu-1gb", // beyond the limits
		"firecracker-1cpu-0gb",  // below
		small + ", " + large,    // which?
		"gpu, public",           // which profile?
		foreign,                 // not ours
		"gpu, cuda",             // two tags of one profile are one profile
	}
	want := []firerunner.Reason{
		firerunner.ReasonSizeRefused, firerunner.ReasonSizeRefused, firerunner.ReasonSizeAmbiguous, firerunner.ReasonProfile, "", "",
	}
	words := []string{"beyond the largest", "below the smallest", "2 sizes", "2 profiles (gpu, public)"}
	ids := h.push(tags...)
	h.awaitJobs(gitlabtest.StatusSuccess, ids[5])
	h.hint(ids...)
	h.nothingLeft()
	h.until("each refusal is known", func() bool { return len(h.events(firerunner.EventJobRefused)) >= 4 })
	for range 2 {
		require.NoError(t, h.control.Sweep(t.Context()))
	}
	refused := h.events(firerunner.EventJobRefused)
	for i, id := range ids {
		var of []firerunner.Event
		for _, e := range refused {
			if e.JobID == id {
				of = append(of, e)
			}
		}
		if want[i] == "" {
			require.Empty(t, of, tags[i])
			continue
		}
		require.Len(t, of, 1, tags[i])
		require.Equal(t, want[i], of[0].Reason)
		require.Contains(t, of[0].Message, words[i])
		j, err := h.store.Job(t.Context(), id)
		require.NoError(t, err)
		require.False(t, j.Wants())
	}
	require.Len(t, h.runners(), 1)
	_, err := h.store.Job(t.Context(), ids[4])
	require.Equal(t, firerunner.NotFound, firerunner.CodeOf(err))
	for i, id := range ids[:5] {
		j, _ := h.gitlab.Job(id)
		require.Equal(t, gitlabtest.StatusPending, j.Status, tags[i])
	}
}

// Without a default profile a size alone chooses nothing.
func TestRefusedWithoutDefaultProfile(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{change: func(c *control.Config) { c.Profiles = c.Profiles[1:] }})
	ids := h.push(small)
	h.until("the refusal is known", func() bool { return len(h.events(firerunner.EventJobRefused)) == 1 })
	require.Equal(t, firerunner.ReasonProfile, h.events(firerunner.EventJobRefused)[0].Reason)
	require.Equal(t, ids[0], h.events(firerunner.EventJobRefused)[0].JobID)
	require.Empty(t, h.runners())
}

// No more runners wait for a host than the queue may hold; the other jobs wait in GitLab until there is room.
func TestQueueFull(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	h := newHouse(t, options{
		change: func(c *control.Config) { c.QueueSize = 2 },
		host:   &firerunner.Host{Name: "here", VCPUs: 8, MemoryMiB: 8192, Slots: 1},
		script: workAfter(gate),
	})
	ids := h.push(small, small, small, small, small)
	h.awaitRunner("running", inState(firerunner.Running))
	h.hint(ids...)
	queued := func() (n int) {
		for _, r := range h.live() {
			if r.State == firerunner.Queued {
				n++
			}
		}
		return n
	}
	h.until("the queue is full", func() bool { return queued() == 2 })
	r := h.awaitRunner("told why", func(r firerunner.Runner) bool {
		return r.State == firerunner.Queued && strings.Contains(r.Message, "slots taken")
	})
	require.Equal(t, "1 host: all 1 slots taken", r.Message)
	require.NoError(t, h.control.Sweep(t.Context()))
	require.Len(t, h.live(), 3)
	close(gate)
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.nothingLeft()
	h.ranOnce(ids...)
}

// A runner that waits says why, and goes on as soon as there is a place.
func TestPlacementReasons(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{host: &firerunner.Host{Name: "here", VCPUs: 1, MemoryMiB: 8192, Slots: 4}})
	ids := h.push(large)
	why := func(text string) {
		t.Helper()
		h.awaitRunner(text, func(r firerunner.Runner) bool { return r.State == firerunner.Queued && r.Message == text })
	}
	place := func() {
		h.update(func(ctx context.Context, tx firerunner.Tx) error {
			return tx.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepPlace})
		})
	}
	why("1 host: smaller than 2cpu-4gb even when empty")
	h.saveHost(firerunner.Host{Name: "here", VCPUs: 8, MemoryMiB: 8192, Slots: 4, Draining: true})
	place()
	why("1 host: draining")
	h.saveHost(firerunner.Host{Name: "there", VCPUs: 8, MemoryMiB: 2048, Slots: 4})
	place()
	why("1 host: draining; 1 host: smaller than 2cpu-4gb even when empty")
	h.saveHost(firerunner.Host{Name: "there", VCPUs: 8, MemoryMiB: 8192, Slots: 4})
	place()
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	h.nothingLeft()
	require.Equal(t, "there", h.runners()[0].Host)
	require.True(t, slices.ContainsFunc(h.events(firerunner.EventMoved), func(e firerunner.Event) bool { return e.Message == "on host there" }))
}

// Control says what it lacks before it does anything.
func TestErrConfig(t *testing.T) {
	t.Parallel()
	_, err := control.New(control.Config{})
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
}
