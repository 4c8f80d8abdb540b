package control_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/control"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// able gives control the whole client, with its extra abilities.
func able(c *control.Config) {
	c.GitLab = c.GitLab.(tapGitLab).GitLab
}

// Projects that no hook has shown are discovered, new ones within DiscoverInterval; without Discover they are not.
func TestSweepDiscovers(t *testing.T) {
	t.Parallel()
	off := newHouse(t, options{noHooks: true, change: able})
	off.push(small)
	require.NoError(t, off.control.Sweep(t.Context()))
	require.Empty(t, off.runners())

	h := newHouse(t, options{noHooks: true, change: func(c *control.Config) { able(c); c.Discover = true }})
	ids := h.push(small)
	require.NoError(t, h.control.Sweep(t.Context()))
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)

	fresh, err := h.gitlab.CreateProject("group/fresh", map[string]string{"README.md": "hello\n"})
	require.NoError(t, err)
	p, err := h.gitlab.Push(fresh.ID, map[string]string{".gitlab-ci.yml": "job:\n  tags: [" + small + "]\n  script: [\"true\"]\n"})
	require.NoError(t, err)
	listings := func() int { return h.gitlab.Requests()["GET /api/v4/projects"] }
	before := listings()
	require.NoError(t, h.control.Sweep(t.Context()))
	require.Equal(t, before, listings(), "it was listed a moment ago")
	h.later(10 * time.Minute)
	require.NoError(t, h.control.Sweep(t.Context()))
	h.awaitJobs(gitlabtest.StatusSuccess, p.JobIDs...)
	require.NoError(t, h.control.Sweep(t.Context()))
	h.nothingLeft()
}

// A listing that fails goes on where it stopped; one that is forbidden is not tried in each round.
func TestSweepDiscoverErr(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{noHooks: true, change: func(c *control.Config) { able(c); c.Discover = true }})
	ids := h.push(small)
	fault := gitlabtest.Fault{Action: gitlabtest.FaultStatus, Status: http.StatusForbidden, Method: http.MethodGet, Path: "/api/v4/projects"}
	_, err := h.gitlab.AddFault(fault)
	require.NoError(t, err)
	require.Equal(t, firerunner.Unauthorized, firerunner.CodeOf(h.control.Sweep(t.Context())))
	require.NoError(t, h.control.Sweep(t.Context()), "said once")
	h.gitlab.ClearFaults()
	h.later(10 * time.Minute)
	fault.Status, fault.Skip = http.StatusBadRequest, 1 // the second page
	_, err = h.gitlab.AddFault(fault)
	require.NoError(t, err)
	require.Error(t, h.control.Sweep(t.Context()))
	h.awaitJobs(gitlabtest.StatusSuccess, ids...) // of the first one
	h.gitlab.ClearFaults()
	require.NoError(t, h.control.Sweep(t.Context()))
	h.nothingLeft()
}

// The sweep leaves a third of GitLab's limit to steps: what jobs wait for is never refused because of it.
func TestSweepLeavesRoomForSteps(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{noHooks: true, change: func(c *control.Config) {
		able(c)
		for id := range int64(40) {
			c.SweepProjects = append(c.SweepProjects, 1000+id)
		}
		c.SweepInterval = 100 * time.Millisecond
	}})
	ids := h.push(small)
	limit := gitlabtest.RateLimit{Name: "api", Path: "/api/v4/**", Limit: 12}
	h.gitlab.SetRateLimit(limit)
	_, err := h.api.Check(t.Context()) // the first answer tells the limit
	require.NoError(t, err)
	left := h.api.Quota().Remaining
	for range 3 {
		_ = h.control.Sweep(t.Context()) // those projects do not exist
	}
	require.Equal(t, 12, h.api.Quota().Limit)
	require.GreaterOrEqual(t, h.api.Quota().Remaining, 4)
	require.Less(t, h.api.Quota().Remaining, left)
	_, err = h.api.Job(t.Context(), h.project.ID, ids[0])
	require.NoError(t, err, "a step's read")
	require.Less(t, h.control.SweepState().PerMinute, 300.0)
}

// What GitLab does not let us ask is said once, and asked rarely; who does not answer does not stand in the way of others.
func TestSweepErrProjects(t *testing.T) {
	t.Parallel()
	h := newHouse(t, options{noHooks: true, change: func(c *control.Config) { c.SweepProjects = []int64{1, 2, 3, 4, 5, 999} }})
	ids := h.push(small)
	asked := func() int { return h.gitlab.Requests()["GET /api/v4/projects/{id}/jobs"] }
	err := h.control.Sweep(t.Context())
	require.Equal(t, firerunner.NotFound, firerunner.CodeOf(err))
	h.awaitJobs(gitlabtest.StatusSuccess, ids...)
	before := asked()
	require.NoError(t, h.control.Sweep(t.Context()))
	require.Equal(t, before+1, asked())
	require.Equal(t, 1, h.control.SweepState().Active)
	h.later(time.Hour)
	require.NoError(t, h.control.Sweep(t.Context()), "that is no news")
	require.Equal(t, before+7, asked())
	h.nothingLeft()
}

// logged collects lines.
type logged struct {
	mu    sync.Mutex
	lines []string
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	return len(p), nil
}

func (l *logged) with(text string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// A webhook that GitLab switched off is an event, once, and so is its return; a restart says nothing twice.
func TestWebhooksOK(t *testing.T) {
	t.Parallel()
	trouble := func(all []firerunner.Webhook) control.WebhookTrouble {
		for _, h := range all {
			if h.AlertStatus != "executable" {
				return control.WebhookTrouble{Word: firerunner.Reason(h.AlertStatus), What: fmt.Sprintf("webhook %d is off", h.ID), Remedy: "look at it"}
			}
		}
		return control.WebhookTrouble{}
	}
	var lines logged
	h := newHouse(t, options{noHooks: true, change: func(c *control.Config) {
		able(c)
		c.WebhookTrouble, c.SweepProjects = trouble, []int64{1}
		c.Logger = slog.New(slog.NewTextHandler(&lines, nil))
	}})
	require.EqualValues(t, 1, h.project.ID)
	hook := `{"id": 7, "url": "https://firerunner.example.com/webhook", "job_events": true, "alert_status": %q}`
	say := func(status string) {
		h.gitlab.ClearFaults()
		_, err := h.gitlab.AddFault(gitlabtest.Fault{
			Action: gitlabtest.FaultStatus, Status: http.StatusOK, Method: http.MethodGet, Path: "/api/v4/projects/*/hooks",
			Header: map[string]string{"Content-Type": "application/json"}, Body: "[" + fmt.Sprintf(hook, status) + "]",
		})
		require.NoError(t, err)
	}
	look := func(events int) firerunner.Event {
		t.Helper()
		require.NoError(t, h.control.LookAtWebhooks(t.Context()))
		all := h.events(firerunner.EventWebhook)
		require.Len(t, all, events)
		if events == 0 {
			return firerunner.Event{}
		}
		return all[events-1]
	}
	say("executable")
	look(0)
	say("temporarily_disabled")
	e := look(1)
	require.Equal(t, "webhook 7 is off (look at it)", e.Message)
	require.Equal(t, h.project.ID, e.ProjectID)
	look(1)
	require.Equal(t, 1, h.control.SweepState().Trouble)
	h.restart()
	look(1)
	say("disabled")
	require.Equal(t, firerunner.Reason("disabled"), look(2).Reason)
	say("executable")
	require.Equal(t, "it does its work again", look(3).Message)
	look(3)
	require.Zero(t, h.control.SweepState().Trouble)
	require.Equal(t, 2, lines.with("level=WARN"))

	h.gitlab.ClearFaults()
	_, err := h.gitlab.AddFault(gitlabtest.Fault{Action: gitlabtest.FaultStatus, Status: http.StatusForbidden, Method: http.MethodGet, Path: "/api/v4/projects/*/hooks"})
	require.NoError(t, err)
	before := h.gitlab.Requests()["GET /api/v4/projects/{id}/hooks"]
	look(3)
	look(3)
	require.Equal(t, 1, lines.with("webhooks cannot be looked at"))
	require.LessOrEqual(t, h.gitlab.Requests()["GET /api/v4/projects/{id}/hooks"]-before, 1)
	h.later(24 * time.Hour)
	look(3)
	require.Equal(t, 1, lines.with("webhooks cannot be looked at"))
}
