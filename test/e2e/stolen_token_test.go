package e2e

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// TestStolenToken takes for granted that a job gets at the token of its gitlab-runner, which runs as the same user and
// has it in its memory. It is good for nothing by then: it gets no second job while the first runs, and is dead after.
func TestStolenToken(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{})
	thief := s.only("thief:\n  script: [echo begun, 'while sleep 1; do echo still here; done']\n")
	s.says(thief.ID, "begun")
	victim := s.only("victim:\n  script: ['true']\n")
	var loot gitlabtest.Runner
	s.eventually("a runner that is paused once it has its job", func() bool {
		for _, r := range s.gitlab.Runners() {
			if r.Paused && len(r.JobIDs) == 1 && r.JobIDs[0] == thief.ID {
				loot = r
			}
		}
		return loot.Token != ""
	})
	require.Equal(t, http.StatusNoContent, s.askForJob(loot.Token))
	disk := readAll(s.state("vms", s.row(thief.ID).ID, "disk.qcow2"))
	require.NotEmpty(t, disk)
	require.False(t, strings.Contains(disk, loot.Token), "the token is on the guest's disk")

	require.NoError(t, s.gitlab.CancelJob(thief.ID))
	s.ended(s.row(thief.ID).ID, firerunner.Cancelled, firerunner.ReasonJobCancelled)
	require.Equal(t, http.StatusForbidden, s.askForJob(loot.Token))
	waiting, _ := s.gitlab.Job(victim.ID)
	for _, h := range waiting.Handouts { // one of its own may have taken it by now
		require.NotEqual(t, loot.ID, h.RunnerID)
	}
	require.NoError(t, s.gitlab.CancelJob(victim.ID))
}

// askForJob does what a gitlab-runner does that has a token, and returns GitLab's status.
// https://docs.gitlab.com/api/runners/ says nothing of it; it is the runner's own protocol.
func (s *site) askForJob(token string) int {
	s.t.Helper()
	body, err := json.Marshal(map[string]any{
		"token": token, "system_id": "s_000000000000",
		"info": map[string]any{"name": "gitlab-runner", "version": "19.4.0", "executor": "shell"},
	})
	require.NoError(s.t, err)
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Post(s.gitlab.URL()+"/api/v4/jobs/request", "application/json", bytes.NewReader(body))
	require.NoError(s.t, err)
	defer answer.Body.Close()
	return answer.StatusCode
}
