package gitlab

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func TestCreateRunner_OK(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		timeout time.Duration
		want    any
	}{
		"as asked":   {90 * time.Minute, 5400.},
		"rounded up": {5 * time.Minute, 600.},
		"whole":      {time.Hour + time.Millisecond, 3601.},
		"none":       {0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, text(http.StatusCreated, `{"id":5,"token":"glrt-abc","token_expires_at":null}`))
			c := newClient(t, s.URL)
			r := request()
			r.MaxTimeout = test.timeout
			made, err := c.CreateRunner(t.Context(), r)
			require.NoError(t, err)
			require.Equal(t, firerunner.Credential{ID: 5, Token: "glrt-abc"}, made)

			all := s.requests()
			require.Len(t, all, 1)
			require.Equal(t, "POST", all[0].method)
			require.Equal(t, "/api/v4/user/runners", all[0].path)
			require.Equal(t, testToken, all[0].token)
			require.Equal(t, "FireRunner/1.2.3", all[0].agent)
			var sent map[string]any
			require.NoError(t, json.Unmarshal([]byte(all[0].body), &sent))
			want := map[string]any{
				"runner_type": "project_type", "project_id": 7., "description": r.Description, "locked": true,
				"run_untagged": false, "tag_list": []any{"deploy", "firecracker-2cpu-4gb"},
			}
			if test.want != nil {
				want["maximum_timeout"] = test.want
			}
			require.Equal(t, want, sent)
		})
	}
}

func TestCreateRunner_ErrInvalid(t *testing.T) {
	t.Parallel()
	s := newServer(t, text(http.StatusCreated, `{}`))
	c := newClient(t, s.URL)
	for name, spoil := range map[string]func(*firerunner.CredentialRequest){
		"project":     func(r *firerunner.CredentialRequest) { r.ProjectID = 0 },
		"tags":        func(r *firerunner.CredentialRequest) { r.Tags = "" },
		"description": func(r *firerunner.CredentialRequest) { r.Description = "" },
	} {
		r := request()
		spoil(&r)
		_, err := c.CreateRunner(t.Context(), r)
		require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err), name)
	}
	require.Empty(t, s.requests())
}

func TestCreateRunner_ErrAnswer(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{}`, `null`, `{"id":0,"token":"glrt-abc"}`, `{"id":-1,"token":"glrt-abc"}`, `{"id":5}`, `{"id":5,"token":""}`,
		`{"id":5,"token":"a b"}`, `{"id":5,"token":"a\nb"}`, `{"id":"5","token":"glrt-abc"}`, `[]`, `{"id":5,"tok`, ``, `<html>`,
	} {
		s := newServer(t, text(http.StatusCreated, body))
		_, err := newClient(t, s.URL).CreateRunner(t.Context(), request())
		require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err), body)
		require.NotContains(t, err.Error(), "glrt-abc")
		require.Len(t, s.requests(), 1, body)
	}
}

// What may be sent twice is tried again; a POST never is, not even where it was surely not acted on.
func TestCalls_Repeated(t *testing.T) {
	t.Parallel()
	for name, do := range everyCall() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, text(http.StatusBadGateway, "bad gateway"))
			c := newClient(t, s.URL, func(cfg *Config) { cfg.Attempts = 3 })
			err := do(t.Context(), c)
			require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
			require.Contains(t, err.Error(), "502")
			want := 3
			if name == "CreateRunner" {
				want = 1
			}
			require.Len(t, s.requests(), want)
		})
	}
	s := newServer(t, nil)
	s.Config.Handler = s.remember(func(w http.ResponseWriter, r *http.Request) {
		if len(s.requests()) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		text(200, `{"id":42,"status":"pending"}`)(w, r)
	})
	_, err := newClient(t, s.URL).Job(t.Context(), 7, 42)
	require.NoError(t, err)
	require.Len(t, s.requests(), 3)
}

func TestCalls_ErrReset(t *testing.T) {
	t.Parallel()
	for name, do := range everyCall() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
			err := do(t.Context(), newClient(t, s.URL))
			require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
			want := 3
			if name == "CreateRunner" {
				want = 1
			}
			// net/http itself may repeat a read whose connection was reset before any answer.
			require.GreaterOrEqual(t, len(s.requests()), want)
			if name == "CreateRunner" {
				require.Len(t, s.requests(), 1)
			}
		})
	}
}

func TestCalls_ErrDeadline(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s := newServer(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) })
	for name, do := range everyCall() {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := do(ctx, newClient(t, s.URL))
		cancel()
		require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err), name)
		require.ErrorIs(t, err, context.DeadlineExceeded, name)

		err = do(t.Context(), newClient(t, s.URL, func(cfg *Config) { cfg.Timeout = 50 * time.Millisecond }))
		require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err), name)
		require.Regexp(t, "no answer", err.Error(), name)
	}
}

func TestPages_OK(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		if page < 3 {
			w.Header().Set("X-Next-Page", strconv.Itoa(page+1))
		}
		w.Header().Set("Link", "<https://evil.example/next>; rel")
		// The first entry of each page is the last of the page before, as when the list moved meanwhile.
		fmt.Fprintf(w, `[{"id":%d,"status":"pending","tag_list":["a"]},{"id":%d,"status":"pending"},null,{"id":0},{"id":9}]`,
			100+page-1, 100+page)
	})
	c := newClient(t, s.URL, func(cfg *Config) { cfg.PageSize = 2 })
	jobs, err := c.PendingJobs(t.Context(), 7)
	require.NoError(t, err)
	var ids []int64
	for _, j := range jobs {
		ids = append(ids, j.ID)
	}
	require.Equal(t, []int64{100, 101, 102, 103}, ids)
	all := s.requests()
	require.Len(t, all, 3)
	require.Equal(t, "/api/v4/projects/7/jobs", all[0].path)
	require.Equal(t, "page=1&per_page=2&scope%5B%5D=pending", all[0].query)
}

func TestPages_ErrEndless(t *testing.T) {
	t.Parallel()
	for _, next := range []func(page int) int{
		func(page int) int { return page + 1 },  // on and on
		func(page int) int { return page * 99 }, // by leaps
	} {
		s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
			page, _ := strconv.Atoi(r.URL.Query().Get("page"))
			w.Header().Set("X-Next-Page", strconv.Itoa(next(page)))
			fmt.Fprintf(w, `[{"id":%d,"status":"pending"}]`, page)
		})
		c := newClient(t, s.URL, func(cfg *Config) { cfg.MaxPages = 4 })
		jobs, err := c.PendingJobs(t.Context(), 7)
		require.Equal(t, firerunner.Exhausted, firerunner.CodeOf(err))
		require.NotEmpty(t, jobs, "what was read is returned")
		require.LessOrEqual(t, len(s.requests()), 4)
	}
	// A page that points back, or to itself, ends the list.
	s := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Next-Page", "1")
		_, _ = w.Write([]byte(`[{"id":1,"status":"pending"}]`))
	})
	jobs, err := newClient(t, s.URL).PendingJobs(t.Context(), 7)
	require.NoError(t, err)
	require.Len(t, jobs, 1)
	require.Len(t, s.requests(), 1)
}

func TestFindRunners_Queries(t *testing.T) {
	t.Parallel()
	s := newServer(t, text(200, `[{"id":1,"description":"fr/a","status":"online","paused":true},{"id":2,"description":"other"}]`))
	c := newClient(t, s.URL)
	found, err := c.FindRunners(t.Context(), 7, "fr/")
	require.NoError(t, err)
	require.Equal(t, []firerunner.GitLabRunner{{ID: 1, Description: "fr/a", Status: "online", Paused: true}}, found)
	_, err = c.FindRunners(t.Context(), 0, "fr/")
	require.NoError(t, err)
	all := s.requests()
	require.Equal(t, "/api/v4/projects/7/runners", all[0].path)
	require.Equal(t, "/api/v4/runners", all[1].path)
	require.Equal(t, "page=1&per_page=100&type=project_type", all[0].query)
}

func TestJob_Fields(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)
	s := newServer(t, nil)
	c := newClient(t, s.URL+"/gitlab/", func(cfg *Config) { cfg.Now = func() time.Time { return now } })
	for name, test := range map[string]struct {
		body string
		want firerunner.Job
	}{
		"pending": {
			`{"id":42,"status":"pending","name":"build","stage":"b","ref":"main","tag_list":["z","a"],"queued_duration":90.5,
			  "created_at":"2026-09-01T11:00:00Z","runner":null,"pipeline":{"id":3,"project_id":9},"web_url":"` + s.URL + `/gitlab/group/sub/app/-/jobs/42"}`,
			firerunner.Job{
				Status: "pending", Name: "build", Stage: "b", Ref: "main", Tags: "a,z", PipelineID: 3, ProjectPath: "group/sub/app",
				CreatedAt: now.Add(-time.Hour), QueuedAt: now.Add(-90*time.Second - 500*time.Millisecond),
			},
		},
		"failed": {
			`{"id":42,"status":"failed","failure_reason":"script_failure","queued_duration":10,"started_at":"2026-09-01T13:00:00+02:00",
			  "finished_at":"2026-09-01T11:30:00Z","runner":{"id":5}}`,
			firerunner.Job{
				Status: "failed", Failure: "script_failure", GitLabID: 5, StartedAt: now.Add(-time.Hour), FinishedAt: now.Add(-30 * time.Minute),
				QueuedAt: now.Add(-time.Hour - 10*time.Second),
			},
		},
		"hostile": {
			`{"id":42,"status":"success","failure_reason":"unknown_failure","name":"a\u001b[2Jb\nc` + fmt.Sprintf("%01000d", 0) + `","queued_duration":1e300,
			  "runner":{"id":-3},"pipeline":{"id":-1},"web_url":"javascript:alert(1)","tag_list":["a,b"," "]}`,
			firerunner.Job{Status: "success", Name: "a [2Jb c" + fmt.Sprintf("%0247d", 0) + "...", Tags: "a,b"},
		},
	} {
		s.Config.Handler = s.remember(text(200, test.body))
		got, err := c.Job(t.Context(), 7, 42)
		require.NoError(t, err, name)
		test.want.ID, test.want.ProjectID, test.want.SeenAt = 42, 7, now
		require.Equal(t, test.want, got, name)
	}
	require.Equal(t, "/gitlab/api/v4/projects/7/jobs/42", s.requests()[0].path)

	s.Config.Handler = s.remember(text(200, `{"id":43,"status":"pending"}`))
	_, err := c.Job(t.Context(), 7, 42)
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err), "the answer to another question")
}

func TestRunnerJobs_OK(t *testing.T) {
	t.Parallel()
	s := newServer(t, text(200, `[{"id":42,"status":"running","project":{"id":7,"path_with_namespace":"g/app"}},
		{"id":43,"status":"success","pipeline":{"id":1,"project_id":8}}]`))
	jobs, err := newClient(t, s.URL).RunnerJobs(t.Context(), 5)
	require.NoError(t, err)
	require.Len(t, jobs, 2)
	require.Equal(t, int64(7), jobs[0].ProjectID)
	require.Equal(t, "g/app", jobs[0].ProjectPath)
	require.Equal(t, int64(5), jobs[0].GitLabID)
	require.Equal(t, int64(8), jobs[1].ProjectID)
	require.Equal(t, firerunner.JobSuccess, jobs[1].Status)
	require.Equal(t, "/api/v4/runners/5/jobs", s.requests()[0].path)
	require.Equal(t, "page=1&per_page=100", s.requests()[0].query)
}

func TestCheck_UntoldScopes(t *testing.T) {
	t.Parallel()
	for _, refusal := range []int{401, 403, 404} {
		s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/api/v4/version" {
				text(200, `{"version":"19.4.0"}`)(w, r)
				return
			}
			text(refusal, `{"message":"no"}`)(w, r)
		})
		check, err := newClient(t, s.URL).Check(t.Context())
		require.NoError(t, err)
		require.Equal(t, firerunner.GitLabCheck{Version: "19.4.0"}, check)
	}
}
