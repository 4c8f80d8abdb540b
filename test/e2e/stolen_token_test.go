package e2e

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// steal takes for granted that a job gets at the token of its gitlab-runner, which runs as the same user and has it in
// its memory. It is good for nothing by then: its runner is paused once it has its job.
func (s *site) steal(job int64) (loot gitlabtest.Runner) {
	s.t.Helper()
	s.eventually("a runner that is paused once it has its job", func() bool {
		for _, r := range s.gitlab.Runners() {
			if r.Paused && len(r.JobIDs) == 1 && r.JobIDs[0] == job {
				loot = r
			}
		}
		return loot.Token != ""
	})
	disk := readAll(s.state("vms", s.row(job).ID, "disk.qcow2"))
	require.NotEmpty(s.t, disk)
	require.False(s.t, strings.Contains(disk, loot.Token), "the token is on the guest's disk")
	return loot
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
