package control_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// story is a course of events that passes many points at which a daemon can die.
type story struct {
	script script
	// play goes through it. It must cope with a crash and a restart at any point.
	play func(h *house)
}

// stories are: a job that runs, and surplus that is retired.
func stories() map[string]func() story {
	return map[string]func() story{
		"Job": func() story {
			return story{script: work, play: func(h *house) {
				ids := h.push(small)
				h.hint(ids...)
				h.awaitJobs(gitlabtest.StatusSuccess, ids...)
				h.hint(ids...)
				h.nothingLeft()
				h.ranOnce(ids...)
			}}
		},
		"Died": func() story {
			died := make(chan struct{})
			return story{script: once(func(g *guest) error {
				g.hello()
				j, err := g.take()
				if err != nil {
					return err
				}
				g.took(j.ID)
				g.wait(died)
				return errors.New("kernel panic")
			}), play: func(h *house) {
				ids := h.push(small + retried)
				h.hint(ids...)
				h.awaitRunner("running", func(r firerunner.Runner) bool { return r.State == firerunner.Running && r.JobKey != "" })
				close(died)
				h.awaitJobs(gitlabtest.StatusFailed, ids...)
				again := h.gitlab.Jobs(gitlabtest.JobFilter{})
				h.hint(again[len(again)-1].ID)
				h.awaitJobs(gitlabtest.StatusSuccess, again[len(again)-1].ID)
				h.hint(again[len(again)-1].ID)
				h.nothingLeft()
				h.ranOnce(ids[0], again[len(again)-1].ID)
			}}
		},
		"Surplus": func() story {
			return story{script: func(g *guest) error {
				g.hello()
				return waitForEnd(g)
			}, play: func(h *house) {
				ids := h.push(small)
				h.hint(ids...)
				h.awaitRunner("ready", inState(firerunner.Ready))
				require.NoError(h.t, h.gitlab.CancelJob(ids[0]))
				h.hint(ids...)
				h.nothingLeft()
			}}
		},
	}
}

// points returns the points that a story passes, in order, by their name and how often they were passed before.
func points(t *testing.T, s story) (passed []string) {
	h := newHouse(t, options{noHooks: true, script: s.script})
	var mu sync.Mutex
	seen := map[string]int{}
	h.tapping(func(_ context.Context, p string) error {
		mu.Lock()
		defer mu.Unlock()
		seen[p]++
		passed = append(passed, fmt.Sprintf("%s#%d", p, seen[p]))
		return nil
	})
	s.play(h)
	h.tapping(nil)
	mu.Lock()
	defer mu.Unlock()
	return passed
}

// acts are what the world outside the store sees of control; TestEveryPoint dies between any two writes as well.
var acts = regexp.MustCompile(`^(gitlab\.(create|delete|pause|runnerjobs|failjob)|driver\.(create|destroy)):`)

// A daemon that dies before or after anything that it does to GitLab or driver, and its successor together do what one
// would have done: each job runs once and nothing is left. Here with the real queue, which must do the steps again.
func TestAfterCrash(t *testing.T) {
	t.Parallel()
	for name, tell := range stories() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := points(t, tell())
			require.Greater(t, len(all), 20)
			for _, point := range slices.DeleteFunc(all, func(p string) bool { return !acts.MatchString(p) }) {
				t.Run(point, func(t *testing.T) {
					t.Parallel()
					s := tell()
					h := newHouse(t, options{noHooks: true, script: s.script})
					crashAt(h, point)
					s.play(h)
					require.NoError(t, h.control.Reap(t.Context()))
					require.Empty(t, h.events(firerunner.EventReaped), "the steps themselves leave nothing to the reaper")
				})
			}
		})
	}
}

// crashAt kills the daemon when it comes to a point, and starts another.
func crashAt(h *house, point string) {
	var mu sync.Mutex
	seen := map[string]int{}
	crash, over := make(chan struct{}), make(chan struct{})
	victim := h.daemon
	h.tapping(func(_ context.Context, p string) error {
		mu.Lock()
		defer mu.Unlock()
		seen[p]++
		if fmt.Sprintf("%s#%d", p, seen[p]) == point && !victim.dead.Swap(true) {
			close(crash)
		}
		return nil
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-crash:
			h.tapping(nil)
			h.restart()
		case <-over:
		}
	}()
	h.t.Cleanup(func() { // before the house is torn down
		close(over)
		<-ended
	})
}
