package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// coordinator is as much of GitLab as one gitlab-runner needs for one job:
// https://gitlab.com/gitlab-org/gitlab/-/blob/master/lib/api/ci/runner.rb
type coordinator struct {
	server *httptest.Server
	refuse bool // the credential is not known

	mu      sync.Mutex
	job     map[string]any // handed out to the first who asks
	asked   []time.Time
	tokens  []string
	trace   strings.Builder
	updates []map[string]any
}

func newCoordinator(t *testing.T, job map[string]any) *coordinator {
	c := &coordinator{job: job}
	c.server = httptest.NewServer(c)
	t.Cleanup(c.server.Close)
	return c
}

// guestURL is where a guest finds it through QEMU's user network.
func (c *coordinator) guestURL() string {
	_, port, _ := net.SplitHostPort(c.server.Listener.Addr().String())
	return "http://10.42.0.1:" + port
}

func (c *coordinator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case r.URL.Path == "/api/v4/jobs/request":
		var asked struct{ Token string }
		_ = json.Unmarshal(body, &asked)
		c.asked, c.tokens = append(c.asked, time.Now()), append(c.tokens, asked.Token)
		switch {
		case c.refuse:
			w.WriteHeader(http.StatusForbidden)
		case c.job == nil:
			w.WriteHeader(http.StatusNoContent)
		default:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusCreated)
			_ = json.NewEncoder(w).Encode(c.job)
			c.job = nil
		}
	case r.Method == http.MethodPatch:
		c.trace.Write(body)
		w.Header().Set("Range", fmt.Sprintf("0-%d", c.trace.Len()))
		w.WriteHeader(http.StatusAccepted)
	case r.Method == http.MethodPut:
		var update map[string]any
		_ = json.Unmarshal(body, &update)
		c.updates = append(c.updates, update)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (c *coordinator) log() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trace.String()
}

// final is the last thing that was said about the job.
func (c *coordinator) final() map[string]any {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.updates) == 0 {
		return nil
	}
	return c.updates[len(c.updates)-1]
}

func (c *coordinator) firstAsked() (time.Time, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.asked) == 0 {
		return time.Time{}, ""
	}
	return c.asked[0], c.tokens[0]
}

// shellJob is a job without a repository.
func shellJob(id int, image string, script ...string) map[string]any {
	job := map[string]any{
		"id": id, "token": "job-token-of-20-chars", "allow_git_fetch": true,
		"job_info":    map[string]any{"name": "test", "stage": "test", "project_id": 1, "project_name": "p"},
		"runner_info": map[string]any{"timeout": 600},
		"variables":   []map[string]any{{"key": "GIT_STRATEGY", "value": "none", "public": true}},
		"steps":       []map[string]any{{"name": "script", "script": script, "timeout": 600, "when": "on_success"}},
		"features":    map[string]any{"failure_reasons": []string{"script_failure", "runner_interrupted"}},
	}
	if image != "" {
		job["image"] = map[string]any{"name": image}
	}
	return job
}
