package gitlab

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// running is a job that runs in an emulated GitLab, with some log.
type running struct {
	*Client
	srv   *gitlabtest.Server
	job   int64
	token firerunner.Secret
}

func newRunning(t *testing.T, ci, log string) running {
	t.Helper()
	srv, err := gitlabtest.Start(gitlabtest.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	project, err := srv.CreateProject("group/app", map[string]string{"README.md": "hello\n"})
	require.NoError(t, err)
	pipeline, err := srv.Push(project.ID, map[string]string{".gitlab-ci.yml": ci})
	require.NoError(t, err)
	c := newClient(t, srv.URL(), func(cfg *Config) { cfg.Token = StaticToken(firerunner.Secret(srv.CreateToken("api"))) })
	r := request()
	r.ProjectID = project.ID
	made, err := c.CreateRunner(t.Context(), r)
	require.NoError(t, err)
	took, err := http.Post(srv.URL()+"/api/v4/jobs/request", "application/json", strings.NewReader(`{"token":"`+made.Token.Reveal()+`","info":{"features":{}}}`))
	require.NoError(t, err)
	require.NoError(t, took.Body.Close())
	require.Equal(t, http.StatusCreated, took.StatusCode)
	x := running{c, srv, pipeline.JobIDs[0], firerunner.Secret(srv.JobToken(pipeline.JobIDs[0]))}
	if log != "" {
		resp, err := c.asJob(t.Context(), http.MethodPatch, "jobs/"+strconv.FormatInt(x.job, 10)+"/trace", x.token, []byte(log), http.Header{"Content-Range": {"0-" + strconv.Itoa(len(log)-1)}})
		require.NoError(t, err)
		require.Equal(t, http.StatusAccepted, resp.StatusCode)
	}
	return x
}

const oneJob = `
build:
  tags: [firecracker-2cpu-4gb]
  script: [make]
`

func TestFailJobOK(t *testing.T) {
	t.Parallel()
	for name, log := range map[string]string{"with a log": "it compiles\nhalf a li", "without": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newRunning(t, oneJob, log)
			told, err := x.FailJob(t.Context(), x.job, x.token, "its microVM\x1b[2J ended\r\nwithout a word")
			require.NoError(t, err)
			require.True(t, told)
			j, _ := x.srv.Job(x.job)
			require.Equal(t, gitlabtest.StatusFailed, j.Status)
			require.Equal(t, "runner_system_failure", j.FailureReason)
			require.Equal(t, log+"\n\x1b[31;1mFireRunner: its microVM [2J ended without a word\x1b[0;m\n", x.srv.Trace(x.job), "one line, and only ours in colour")

			told, err = x.FailJob(t.Context(), x.job, x.token, "again") // as after a crash
			require.NoError(t, err)
			require.False(t, told)
			require.NotContains(t, x.srv.Trace(x.job), "again")
		})
	}
}

// TestFailJobAgain: while GitLab does not take the end of a job, its last line is not written again and again.
func TestFailJobAgain(t *testing.T) {
	t.Parallel()
	x := newRunning(t, oneJob, "it compiles\n")
	_, err := x.srv.AddFault(gitlabtest.Fault{Action: gitlabtest.FaultStatus, Status: http.StatusBadGateway, Method: http.MethodPut, Path: "/api/v4/jobs/*", Count: 2})
	require.NoError(t, err)
	for range 2 {
		told, err := x.FailJob(t.Context(), x.job, x.token, "its microVM ended")
		require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
		require.False(t, told)
	}
	told, err := x.FailJob(t.Context(), x.job, x.token, "its microVM ended")
	require.NoError(t, err)
	require.True(t, told)
	require.Equal(t, 1, strings.Count(x.srv.Trace(x.job), "its microVM ended"))
	left := 0
	x.lastLines.Range(func(any, any) bool { left++; return true })
	require.Zero(t, left)
}

// TestFailJobRetriedOK: GitLab makes a new job at once where its retry: says so.
func TestFailJobRetriedOK(t *testing.T) {
	t.Parallel()
	x := newRunning(t, oneJob+"  retry: {max: 1, when: runner_system_failure}\n", "")
	told, err := x.FailJob(t.Context(), x.job, x.token, "why")
	require.NoError(t, err)
	require.True(t, told)
	again := x.srv.Jobs(gitlabtest.JobFilter{Statuses: []gitlabtest.Status{gitlabtest.StatusPending}})
	require.Len(t, again, 1)
	require.Equal(t, x.job, again[0].RetryOf)
}

func TestFailJobRefused(t *testing.T) {
	t.Parallel()
	x := newRunning(t, oneJob, "")
	for name, of := range map[string]struct {
		job   int64
		token firerunner.Secret
	}{"another token": {x.job, "glcbt-another"}, "another job": {x.job + 999, x.token}} {
		told, err := x.FailJob(t.Context(), of.job, of.token, "why")
		require.NoError(t, err, name)
		require.False(t, told, name)
	}
	j, _ := x.srv.Job(x.job)
	require.Equal(t, gitlabtest.StatusRunning, j.Status)
	require.NoError(t, x.srv.CancelJob(x.job))
	told, err := x.FailJob(t.Context(), x.job, x.token, "why")
	require.NoError(t, err)
	require.False(t, told, "it was cancelled")
	j, _ = x.srv.Job(x.job)
	require.Equal(t, gitlabtest.StatusCanceled, j.Status)
}

// TestFailJobToken: the job's token is sent, ours is not, and neither is in an error.
func TestFailJobToken(t *testing.T) {
	t.Parallel()
	const token = "glcbt-0123456789abcdefghij"
	for name, tc := range map[string]struct {
		status int
		code   firerunner.Code
	}{
		"away":         {http.StatusBadGateway, firerunner.Unavailable},
		"not done":     {http.StatusAccepted, firerunner.Unavailable},
		"limited":      {http.StatusTooManyRequests, firerunner.Exhausted},
		"odd":          {http.StatusTeapot, firerunner.Invalid},
		"points away":  {http.StatusTemporaryRedirect, firerunner.Invalid},
		"unauthorized": {http.StatusUnauthorized, firerunner.Unauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("JOB-TOKEN") != token {
					w.WriteHeader(http.StatusForbidden)
					return
				}
				w.Header().Set("Location", "http://127.0.0.1:1/")
				text(tc.status, `{"message":"`+token+`"}`)(w, r)
			})
			told, err := newClient(t, s.URL).FailJob(t.Context(), 7, token, "why")
			require.False(t, told)
			require.Equal(t, tc.code, firerunner.CodeOf(err))
			require.NotContains(t, err.Error(), token)
			for _, r := range s.requests() {
				require.Empty(t, r.token, "FireRunner's own token speaks for no job")
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := newClient(t, "http://127.0.0.1:1").FailJob(ctx, 7, token, "why")
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
}

// TestFailJobLogErr: where the log cannot be written, the job is failed all the same.
func TestFailJobLogErr(t *testing.T) {
	t.Parallel()
	for name, ranges := range map[string]string{"moves": "0-9", "says nothing": "", "nonsense": "0-x", "negative": "0--4"} {
		s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				w.WriteHeader(http.StatusOK)
				return
			}
			w.Header().Set("Range", ranges)
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		})
		told, err := newClient(t, s.URL+"/sub/path").FailJob(t.Context(), 7, "glcbt-x", "why")
		require.NoError(t, err, name)
		require.True(t, told, name)
		asked := s.requests()
		require.LessOrEqual(t, len(asked), mostAppends+1, name)
		require.Equal(t, "/sub/path/api/v4/jobs/7", asked[len(asked)-1].path)
		require.JSONEq(t, `{"token":"glcbt-x","state":"failed","failure_reason":"runner_system_failure"}`, asked[len(asked)-1].body)
	}
}
