package sim

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// A job whose microVM dies in a quiet world is failed by us, in time; one of which GitLab is not told is seen.
func TestOwed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		deaf, old bool
		told      int
		problem   string
	}{
		"Told":         {told: 1},
		"NotTold":      {deaf: true, problem: "lost the microVM of runner " + first},
		"AnOlderAgent": {old: true}, // GitLab finds out by itself
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := plan{
				projects: []int64{1}, deadlines: firerunner.DefaultDeadlines(), holdAfter: time.Minute,
				hosts: []firerunner.Host{{Name: "a", Driver: "sim", VCPUs: 8, MemoryMiB: 16384, Slots: 4}},
				jobs:  []wish{{at: time.Second, project: 1, tags: tagSmall, takes: 5 * time.Minute}},
				chaos: time.Second, patience: 40 * time.Minute,
			}
			p.deadlines.JobTimeout = 10 * time.Minute
			var job *Job
			r := Run(t, Options{Seed: 1, plan: &p, tamper: tamper{deaf: tt.deaf, life: func(_ *world, _ string, l *life) {
				*l = life{boot: time.Second, diesIn: 30 * time.Second, old: tt.old}
			}}, done: func(w *world) bool {
				done := w.over() && w.clock() > 3*time.Second
				if done {
					job = w.gitlab.jobs[w.gitlab.order[0]]
				}
				return done
			}})
			if tt.problem == "" {
				require.Empty(t, r.Problems)
			} else {
				require.Len(t, r.Problems, 1)
				require.Contains(t, r.Problems[0], tt.problem)
			}
			require.Equal(t, tt.told, r.Told)
			require.Equal(t, firerunner.JobFailed, job.Status)
			require.Equal(t, tt.told == 1, job.Failure == firerunner.SystemFailure)
			require.Len(t, job.ran, 1)
		})
	}
}
