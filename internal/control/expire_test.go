package control_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/control"
)

// newModel returns a world with a daemon in it.
func newModel(t *testing.T) *world {
	t.Helper()
	var current *world
	w := newWorld(t.Fatalf, modelStore(t, &current), 1)
	current = w
	w.start()
	return w
}

func (w *world) rows(t *testing.T) []firerunner.Runner {
	t.Helper()
	all, err := w.store.Runners(context.Background(), firerunner.RunnerQuery{})
	require.NoError(t, err)
	return all
}

// Nothing is ever stuck: a runner in any state, whose owner never does anything and whose steps are lost, ends once its
// time is over, by nothing but the periodic tasks and the steps that they enqueue.
func TestExpireEveryState(t *testing.T) {
	t.Parallel()
	for _, state := range firerunner.States() {
		for _, desired := range []firerunner.Desired{firerunner.Wanted, firerunner.Unwanted} {
			if state == firerunner.Gone || state == firerunner.Stopping && desired == firerunner.Wanted {
				continue
			}
			t.Run(fmt.Sprintf("%s-%s", state, desired), func(t *testing.T) {
				t.Parallel()
				w := newModel(t)
				r := firerunner.NewRunner("stuck", firerunner.Demand{ProjectID: w.project, Tags: small}, w.now)
				r.State, r.Desired, r.Host, r.Size = state, desired, "here", firerunner.Size{VCPUs: 1, MemoryMiB: 1024}
				if within := firerunner.DefaultDeadlines().Of(state); within > 0 {
					r.Deadline = w.now.Add(within)
				}
				if state >= firerunner.Creating {
					cred, err := w.CreateRunner(t.Context(), firerunner.CredentialRequest{Description: "firerunner inst1 stuck", Tags: small})
					require.NoError(t, err)
					r.GitLabID = cred.ID
				}
				if state >= firerunner.Booting {
					_, err := modelDriver{w}.Create(t.Context(), firerunner.MicroVMSpec{ID: "stuck"})
					require.NoError(t, err)
				}
				if state == firerunner.Running {
					r.JobID = w.id() // a job that GitLab has deleted
				}
				if desired == firerunner.Unwanted {
					r.Outcome = firerunner.Cancelled
				}
				require.NoError(t, w.store.Update(t.Context(), func(tx firerunner.Tx) error { return tx.CreateRunner(t.Context(), r) }))
				w.steps = nil
				for range 100 {
					w.now = w.now.Add(time.Minute)
					w.task(w.control.Expire)
					w.task(w.control.Sweep)
					w.steps, w.later = append(w.steps, w.later...), nil
					w.settle()
					if w.rows(t)[0].State == firerunner.Gone {
						break
					}
				}
				r = w.rows(t)[0]
				require.Equal(t, firerunner.Gone, r.State)
				require.NotEmpty(t, r.Outcome)
				require.Empty(t, w.vms)
				require.Empty(t, w.runners)
			})
		}
	}
}

// Where every try is rejected, the pause doubles with each round up to two minutes, and then the image is given up on the
// host; runners that failed together are one round. After the first round only one runner tries.
func TestRejectedPauseDoubles(t *testing.T) {
	t.Parallel()
	w := newModel(t)
	w.createErr = firerunner.Errorf(firerunner.Unavailable, "no room on the disk").WithHint("make room")
	for range 3 {
		w.newJob(small)
	}
	var made []time.Time
	for len(made) < 8 {
		before := len(w.rows(t))
		w.task(w.control.Sweep)
		w.settle()
		if n := len(w.rows(t)); n > before {
			if len(made) == 0 {
				require.Equal(t, 3, n, "a runner for each job, in one round")
			} else {
				require.Equal(t, before+1, n, "one tries")
			}
			made = append(made, w.now)
		}
		w.now = w.now.Add(time.Second)
		w.steps, w.later = append(w.steps, w.later...), nil
	}
	var pauses []time.Duration
	for i := range made[1:] {
		pauses = append(pauses, made[i+1].Sub(made[i]))
	}
	s := time.Second
	require.Equal(t, []time.Duration{2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 900 * s, 900 * s}, pauses)
	for _, r := range w.rows(t) {
		require.Equal(t, firerunner.Rejected, r.Outcome)
	}
	events := w.imageEvents(t)
	require.Len(t, events, 1, "said once")
	require.Equal(t, firerunner.ReasonCreateFailed, events[0].Reason)
	for _, part := range []string{"image debian on host here is given up for 15m0s", "6 times in a row", "no room on the disk", "(make room)"} {
		require.Contains(t, events[0].Message, part)
	}
	w.createErr = nil
	w.finish()
	events = w.imageEvents(t)
	require.Len(t, events, 2)
	require.Equal(t, "image debian on host here works again", events[1].Message)
}

// A deadline does not kill a job on a guess: where GitLab cannot say whether the runner has one, it is asked again.
func TestExpireWaitsForGitLab(t *testing.T) {
	t.Parallel()
	w := newModel(t)
	w.newJob(small)
	w.task(w.control.Sweep)
	w.settle()
	r := w.rows(t)[0]
	require.Equal(t, firerunner.Booting, r.State)
	w.runnerJobsErr = firerunner.Errorf(firerunner.Unavailable, "GitLab does not answer")
	w.now = r.Deadline.Add(time.Second)
	require.Error(t, w.control.Expire(t.Context()))
	require.NoError(t, w.control.Expire(t.Context()), "not again at once")
	require.Equal(t, firerunner.Wanted, w.rows(t)[0].Desired)
	w.act(r.ID) // meanwhile it comes up
	w.deliverAll()
	require.Equal(t, firerunner.Ready, w.rows(t)[0].State)
	w.runnerJobsErr = nil
	w.finish()
}

// IDs sort by age, are safe in names, and do not repeat.
func TestNewID(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	last := ""
	for i := range 1000 {
		id := control.NewIDAt(time.UnixMilli(1_800_000_000_000 + int64(i)))
		require.Regexp(t, `^[0-9a-z]{16}$`, id)
		require.Greater(t, id, last)
		require.False(t, seen[id])
		seen[id], last = true, id
	}
}

// imageEvents are what was said of images on hosts.
func (w *world) imageEvents(t *testing.T) []firerunner.Event {
	t.Helper()
	all, err := w.store.Events(t.Context(), firerunner.EventQuery{Kinds: []firerunner.EventKind{firerunner.EventImage}})
	require.NoError(t, err)
	return all
}
