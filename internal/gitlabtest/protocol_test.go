package gitlabtest_test

import (
	"bytes"
	"context"
	"fmt"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/gitlabtest"
)

const oneJob = "one:\n  script: [echo hi]\n"

func TestRequestJobStatuses(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gitlabtest.Config) { c.LongPoll = -1 })
	r := f.runner()

	none := f.request(r.Token, "")
	require.Equal(t, http.StatusNoContent, none.status)
	value := none.header.Get("X-GitLab-Last-Update")
	require.NotEmpty(t, value)
	require.Equal(t, http.StatusForbidden, f.request("glrt-unknown", "").status)
	require.Equal(t, http.StatusBadRequest, f.request("", "").status)

	f.push(oneJob)
	changed := f.request(r.Token, value)
	require.Equal(t, http.StatusCreated, changed.status)
	require.Empty(t, changed.header.Get("X-GitLab-Last-Update"), "or the next job would wait for a long poll")

	_, err := f.AddFault(gitlabtest.Fault{Action: gitlabtest.FaultStatus, Status: http.StatusConflict, Path: "/api/v4/jobs/request", Count: 1})
	require.NoError(t, err)
	require.Equal(t, http.StatusConflict, f.request(r.Token, "").status)
	require.Equal(t, http.StatusNoContent, f.request(r.Token, "").status)
}

func TestRequestJobCredentials(t *testing.T) {
	t.Parallel()
	f := start(t)
	r := f.runner()
	for _, header := range []string{"RUNNER-TOKEN", "PRIVATE-TOKEN"} {
		f.push(oneJob)
		a := f.do("POST", "/api/v4/jobs/request", object{}, header, r.Token)
		require.Equal(t, http.StatusCreated, a.status, header)
	}
	require.Equal(t, "<legacy>", f.Runners()[0].Systems[0].SystemID)
}

func TestLongPollEndsWithAJob(t *testing.T) {
	t.Parallel()
	f := start(t)
	r := f.runner()
	value := f.request(r.Token, "").header.Get("X-GitLab-Last-Update")
	got := make(chan answer, 1)
	go func() {
		a, _ := f.try("POST", "/api/v4/jobs/request", object{"token": r.Token, "last_update": value})
		got <- a
	}()
	select {
	case a := <-got:
		t.Fatalf("not held: %d", a.status)
	case <-time.After(100 * time.Millisecond): // long enough to see that it is held; not needed to be right
	}
	f.push(oneJob)
	select {
	case a := <-got:
		require.Equal(t, http.StatusCreated, a.status)
	case <-f.ctx.Done():
		t.Fatal("still held")
	}
}

func TestLongPollEndsEmpty(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gitlabtest.Config) { c.LongPoll = 50 * time.Millisecond })
	r := f.runner()
	value := f.request(r.Token, "").header.Get("X-GitLab-Last-Update")
	a := f.request(r.Token, value)
	require.Equal(t, http.StatusNoContent, a.status)
	require.Equal(t, value, a.header.Get("X-GitLab-Last-Update"))
}

func TestPayloadOK(t *testing.T) {
	t.Parallel()
	f := start(t)
	require.NoError(t, f.SetVariable(f.project.ID, gitlabtest.Variable{Key: "SECRET", Value: "topsecret99", Masked: true}))
	job := f.push(`
variables: {COLOR: red, NUMBER: 3}
default: {before_script: [echo before], after_script: [echo after]}
one:
  image: {name: "alpine:3", entrypoint: [""]}
  services: [redis]
  variables: {COLOR: blue}
  timeout: 10m
  script: [echo hi]
`)[0]
	r := f.CreateRunner(gitlabtest.Runner{ProjectIDs: []int64{f.project.ID}, RunUntagged: true, MaximumTimeout: 15 * time.Minute})
	a := f.request(r.Token, "")
	var raw object
	a.decode(t, &raw)
	require.Equal(t, "alpine:3", raw["image"].(object)["name"])
	require.Equal(t, "redis", raw["services"].([]any)[0].(object)["name"])
	var j taken
	a.decode(t, &j)
	require.EqualValues(t, 600, j.RunnerInfo.Timeout)
	require.Len(t, j.Steps, 2)
	require.Equal(t, []string{"echo before", "echo hi"}, j.Steps[0].Script)
	require.Equal(t, "after_script", j.Steps[1].Name)
	values, masked := map[string]string{}, map[string]bool{}
	for _, v := range j.Variables {
		values[v.Key], masked[v.Key] = v.Value, v.Masked
	}
	require.Equal(t, "blue", values["COLOR"])
	require.Equal(t, "3", values["NUMBER"])
	require.Equal(t, itoa(job.ID), values["CI_JOB_ID"])
	require.Equal(t, "group/app", values["CI_PROJECT_PATH"])
	require.Equal(t, f.ExternalURL(), values["CI_SERVER_URL"])
	require.Equal(t, j.Token, values["CI_JOB_TOKEN"])
	require.True(t, masked["CI_JOB_TOKEN"])
	require.True(t, masked["SECRET"])
	require.Contains(t, values["CI_REPOSITORY_URL"], "gitlab-ci-token:"+j.Token+"@")
	require.Len(t, values["CI_COMMIT_SHA"], 40)
}

func TestMatching(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gitlabtest.Config) { c.LongPoll = -1 })
	other, err := f.CreateProject("other/app", nil)
	require.NoError(t, err)
	here := []int64{f.project.ID}
	for name, c := range map[string]struct {
		runner gitlabtest.Runner
		tags   string
		want   bool
	}{
		"same tags":           {gitlabtest.Runner{ProjectIDs: here, Tags: []string{"a"}}, "a", true},
		"more tags":           {gitlabtest.Runner{ProjectIDs: here, Tags: []string{"a", "b"}}, "a", true},
		"fewer tags":          {gitlabtest.Runner{ProjectIDs: here, Tags: []string{"a"}}, "a, b", false},
		"untagged job":        {gitlabtest.Runner{ProjectIDs: here, Tags: []string{"a"}}, "", false},
		"untagged allowed":    {gitlabtest.Runner{ProjectIDs: here, Tags: []string{"a"}, RunUntagged: true}, "", true},
		"foreign project":     {gitlabtest.Runner{ProjectIDs: []int64{other.ID}, Tags: []string{"a"}}, "a", false},
		"instance":            {gitlabtest.Runner{Type: "instance_type", Tags: []string{"a"}}, "a", true},
		"paused":              {gitlabtest.Runner{ProjectIDs: here, Tags: []string{"a"}, Paused: true}, "a", false},
		"protected":           {gitlabtest.Runner{ProjectIDs: here, Tags: []string{"a"}, RefProtected: true}, "a", true},
		"locked to its own":   {gitlabtest.Runner{ProjectIDs: here, Tags: []string{"a"}, Locked: true}, "a", true},
		"case of tags counts": {gitlabtest.Runner{ProjectIDs: here, Tags: []string{"A"}}, "a", false},
	} {
		job := f.push(fmt.Sprintf("one:\n  tags: [%s]\n  script: x\n", c.tags))[0]
		status := f.request(f.CreateRunner(c.runner).Token, "").status
		require.Equal(t, c.want, status == http.StatusCreated, name)
		require.NoError(t, f.CancelJob(job.ID))
	}
}

func TestOldestJobFirst(t *testing.T) {
	t.Parallel()
	f := start(t)
	first, second := f.push(oneJob)[0], f.push(oneJob)[0]
	r := f.runner()
	require.Equal(t, first.ID, f.take(r).ID)
	require.Equal(t, second.ID, f.take(r).ID)
}

func TestUpdateStatuses(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.push(oneJob)
	r := f.runner()
	j := f.take(r)
	path := "/api/v4/jobs/" + itoa(j.ID)

	require.Equal(t, http.StatusForbidden, f.do("PUT", path, object{"token": "wrong", "state": "success"}).status)
	require.Equal(t, http.StatusForbidden, f.do("PUT", "/api/v4/jobs/99999", object{"token": j.Token, "state": "success"}).status)
	require.Equal(t, http.StatusBadRequest, f.do("PUT", path, object{"state": "success"}).status)
	require.Equal(t, http.StatusBadRequest, f.do("PUT", path, object{"token": j.Token, "state": "sideways"}).status)

	ok := f.do("PUT", path, object{"state": "running"}, "JOB-TOKEN", j.Token)
	require.Equal(t, http.StatusOK, ok.status)
	require.Equal(t, "running", ok.header.Get("Job-Status"))
	require.Equal(t, "3", ok.header.Get("X-GitLab-Trace-Update-Interval"))

	f.patch(j, "0-4", "hello", http.StatusAccepted)
	bad := f.do("PUT", path, object{"token": j.Token, "state": "success", "output": object{"checksum": "crc32:00000000", "bytesize": 5}})
	require.Equal(t, http.StatusPreconditionFailed, bad.status)
	require.Empty(t, f.Trace(j.ID), "the runner starts again from zero")
	f.patch(j, "0-4", "hello", http.StatusAccepted)
	bad = f.do("PUT", path, object{"token": j.Token, "state": "success", "output": object{"bytesize": 4}})
	require.Equal(t, http.StatusPreconditionFailed, bad.status)
	f.patch(j, "0-4", "hello", http.StatusAccepted)
	good := f.do("PUT", path, object{
		"token": j.Token, "state": "failed", "failure_reason": "script_failure", "exit_code": 7,
		"output": object{"checksum": gitlabtest.Checksum([]byte("hello")), "bytesize": 5},
	})
	require.Equal(t, http.StatusOK, good.status)
	again := f.do("PUT", path, object{"token": j.Token, "state": "failed"})
	require.Equal(t, http.StatusForbidden, again.status)
	require.Equal(t, "failed", again.header.Get("Job-Status"))
	done, _ := f.Job(j.ID)
	require.Equal(t, 7, *done.ExitCode)
	require.Equal(t, map[string]int{"running": 1, "success": 2, "failed": 2, "sideways": 1}, done.Updates)
}

// patch appends to a trace and expects a status.
func (f *fixture) patch(j taken, contentRange, text string, want int) answer {
	f.t.Helper()
	a := f.do("PATCH", "/api/v4/jobs/"+itoa(j.ID)+"/trace?debug_trace=false", text,
		"JOB-TOKEN", j.Token, "Content-Range", contentRange, "Content-Type", "text/plain")
	require.Equal(f.t, want, a.status, "%s", a.body)
	return a
}

func TestTraceStatuses(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gitlabtest.Config) { c.MaxTraceBytes = 100 })
	f.push(oneJob)
	j := f.take(f.runner())
	a := f.patch(j, "0-4", "hello", http.StatusAccepted)
	require.Equal(t, "0-5", a.header.Get("Range"))
	require.Equal(t, "running", a.header.Get("Job-Status"))
	require.Equal(t, "3", a.header.Get("X-GitLab-Trace-Update-Interval"))
	f.patch(j, "0-4", "hello", http.StatusAccepted) // the answer to the first was lost
	require.Equal(t, "hello", f.Trace(j.ID))

	a = f.patch(j, "9-12", "gap!", http.StatusRequestedRangeNotSatisfiable)
	require.Equal(t, "0-5", a.header.Get("Range"))
	a = f.patch(j, "3-6", "over", http.StatusRequestedRangeNotSatisfiable)
	require.Equal(t, "0-5", a.header.Get("Range"))
	f.patch(j, "5-10", " world", http.StatusAccepted)
	require.Equal(t, "hello world", f.Trace(j.ID))

	bad := f.do("PATCH", "/api/v4/jobs/"+itoa(j.ID)+"/trace", "x", "JOB-TOKEN", j.Token)
	require.Equal(t, http.StatusBadRequest, bad.status)
	f.patch(taken{ID: j.ID, Token: "wrong"}, "11-11", "x", http.StatusForbidden)
	f.patch(taken{ID: 12345, Token: j.Token}, "11-11", "x", http.StatusForbidden)

	a = f.patch(j, "11-200", string(make([]byte, 200)), http.StatusForbidden)
	require.Equal(t, "failed", a.header.Get("Job-Status"))
	done, _ := f.Job(j.ID)
	require.Equal(t, "trace_size_exceeded", done.FailureReason)
}

func TestCancelReachesTheRunner(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.push(oneJob)
	j := f.take(f.runner())
	require.NoError(t, f.CancelJob(j.ID))
	a := f.patch(j, "0-1", "hi", http.StatusAccepted)
	require.Equal(t, "canceling", a.header.Get("Job-Status"))
	a = f.do("PUT", "/api/v4/jobs/"+itoa(j.ID), object{"token": j.Token, "state": "failed", "failure_reason": "unknown_failure"})
	require.Equal(t, http.StatusOK, a.status)
	done, _ := f.Job(j.ID)
	require.Equal(t, gitlabtest.StatusCanceled, done.Status)
	require.Empty(t, done.FailureReason)
	a = f.patch(j, "2-3", "hi", http.StatusForbidden)
	require.Equal(t, "canceled", a.header.Get("Job-Status"))
}

func TestArtifactStatuses(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gitlabtest.Config) { c.MaxArtifactBytes = 100 })
	f.push("stages: [a, b]\nmake:\n  stage: a\n  script: x\n  artifacts: {paths: [x]}\nuse:\n  stage: b\n  script: x\n")
	r := f.runner()
	j := f.take(r)
	path := "/api/v4/jobs/" + itoa(j.ID) + "/artifacts"
	upload := func(token, field string, size int) int {
		var body bytes.Buffer
		w := multipart.NewWriter(&body)
		part, err := w.CreateFormFile(field, "artifacts.zip")
		require.NoError(t, err)
		_, err = part.Write(bytes.Repeat([]byte("z"), size))
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return f.do("POST", path+"?artifact_format=zip&artifact_type=archive", body.Bytes(),
			"JOB-TOKEN", token, "Content-Type", w.FormDataContentType()).status
	}
	require.Equal(t, http.StatusForbidden, upload("wrong", "file", 5))
	require.Equal(t, http.StatusBadRequest, upload(j.Token, "other", 5))
	require.Equal(t, http.StatusRequestEntityTooLarge, upload(j.Token, "file", 101))
	require.Equal(t, http.StatusNotFound, f.do("GET", path, nil, "JOB-TOKEN", j.Token).status)
	require.Equal(t, http.StatusCreated, upload(j.Token, "file", 5))
	require.Equal(t, http.StatusBadRequest, upload(j.Token, "file", 5), "a second archive")
	require.Equal(t, http.StatusOK, f.do("PUT", "/api/v4/jobs/"+itoa(j.ID), object{"token": j.Token, "state": "success"}).status)
	require.Equal(t, http.StatusForbidden, upload(j.Token, "file", 5), "the job is over")

	user := f.take(r)
	require.Len(t, user.Dependencies, 1)
	require.Equal(t, j.ID, user.Dependencies[0].ID)
	a := f.do("GET", path+"?direct_download=false", nil, "JOB-TOKEN", user.Dependencies[0].Token)
	require.Equal(t, http.StatusOK, a.status)
	require.Equal(t, "zzzzz", string(a.body))
	require.Equal(t, http.StatusUnauthorized, f.do("GET", path, nil).status)
	require.Equal(t, http.StatusForbidden, f.do("GET", path, nil, "JOB-TOKEN", j.Token).status, "that token died with its job")
}

func TestRunnerCalls(t *testing.T) {
	t.Parallel()
	f := start(t)
	r := f.runner()
	verified := f.do("POST", "/api/v4/runners/verify", object{"token": r.Token, "system_id": "s_abcabcabcabc"})
	require.Equal(t, http.StatusOK, verified.status)
	require.JSONEq(t, fmt.Sprintf(`{"id":%d,"token":%q,"token_expires_at":null}`, r.ID, r.Token), string(verified.body))
	require.Len(t, r.Token, 25)
	require.Equal(t, http.StatusForbidden, f.do("POST", "/api/v4/runners/verify", object{"token": "no"}).status)
	require.Equal(t, http.StatusNotImplemented, f.do("GET", "/api/v4/runners/router/discovery", nil, "RUNNER-TOKEN", r.Token).status)

	require.Equal(t, http.StatusNoContent, f.do("DELETE", "/api/v4/runners/managers", object{"token": r.Token, "system_id": "s_abcabcabcabc"}).status)
	require.Len(t, f.Runners(), 1)
	require.Empty(t, f.Runners()[0].Systems)
	reset := f.do("POST", "/api/v4/runners/reset_authentication_token", object{"token": r.Token})
	require.Equal(t, http.StatusCreated, reset.status)
	require.Equal(t, http.StatusForbidden, f.request(r.Token, "").status)
	require.Equal(t, http.StatusNoContent, f.do("DELETE", "/api/v4/runners?token="+f.Runners()[0].Token, nil).status)
	require.Empty(t, f.Runners())
}

func TestSweepTimeouts(t *testing.T) {
	t.Parallel()
	now := newClock()
	f := start(t, func(c *gitlabtest.Config) { c.Now, c.JobTimeout, c.TimeoutGrace = now.Now, time.Hour, time.Minute })
	f.push(oneJob)
	j := f.take(f.runner())
	now.Add(time.Hour + 30*time.Second)
	require.Zero(t, f.SweepTimeouts())
	now.Add(time.Minute)
	require.Equal(t, 1, f.SweepTimeouts())
	done, _ := f.Job(j.ID)
	require.Equal(t, gitlabtest.StatusFailed, done.Status)
	require.Equal(t, "server_timeout_running", done.FailureReason)
}

func TestRunnerTokenExpires(t *testing.T) {
	t.Parallel()
	now := newClock()
	f := start(t, func(c *gitlabtest.Config) { c.Now = now.Now })
	f.push(oneJob)
	r := f.CreateRunner(gitlabtest.Runner{ProjectIDs: []int64{f.project.ID}, RunUntagged: true, TokenExpiresAt: now.Now().Add(10 * time.Minute)})
	j := f.take(r)
	now.Add(10 * time.Minute)
	require.Equal(t, http.StatusForbidden, f.request(r.Token, "").status)
	f.patch(j, "0-1", "hi", http.StatusAccepted)
}

// A runner that hung up in its long poll is given no job: the job would be lost.
func TestLongPollHungUp(t *testing.T) {
	t.Parallel()
	f := start(t)
	r := f.runner()
	value := f.request(r.Token, "").header.Get("X-GitLab-Last-Update")
	ctx, hangUp := context.WithTimeout(f.ctx, 100*time.Millisecond)
	defer hangUp()
	body := fmt.Sprintf(`{"token":%q,"last_update":%q}`, r.Token, value)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, f.URL()+"/api/v4/jobs/request", strings.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	response, err := f.client.Do(request)
	if err == nil {
		response.Body.Close()
	}
	require.ErrorIs(t, err, context.DeadlineExceeded)
	job := f.push(oneJob)[0]
	require.Equal(t, job.ID, f.take(r).ID)
}

func TestSweepByItself(t *testing.T) {
	t.Parallel()
	now := newClock()
	f := start(t, func(c *gitlabtest.Config) { c.Now, c.SweepInterval = now.Now, time.Millisecond })
	f.push("one:\n  timeout: 10m\n  script: x\n")
	j := f.take(f.runner())
	now.Add(time.Hour)
	done, err := f.WaitJob(f.ctx, j.ID)
	require.NoError(t, err)
	require.Equal(t, gitlabtest.StatusFailed, done.Status)
}

// A job of which nothing is heard is failed after a while, whether its runner still exists or not; deleting the runner
// changes nothing. A retry for that reason, by its old or its new name, is a new job.
func TestSweepSilence(t *testing.T) {
	t.Parallel()
	for when, retried := range map[string]bool{
		"no_updates_running": true, "stuck_or_timeout_failure": true, "always": true, "runner_system_failure": false,
	} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			now := newClock()
			f := start(t, func(c *gitlabtest.Config) { c.Now, c.SilenceLimit, c.JobTimeout = now.Now, time.Minute, time.Hour })
			f.push("one:\n  retry: {max: 1, when: [" + when + "]}\n  script: x\n")
			r := f.runner()
			j := f.take(r)
			now.Add(50 * time.Second)
			f.patch(j, "0-1", "hi", http.StatusAccepted)
			now.Add(50 * time.Second)
			require.Zero(t, f.SweepTimeouts(), "it was heard of")
			f.DeleteRunner(r.ID)
			require.Zero(t, f.SweepTimeouts())
			running, _ := f.Job(j.ID)
			require.Equal(t, gitlabtest.StatusRunning, running.Status)
			now.Add(time.Minute)
			require.Equal(t, 1, f.SweepTimeouts())
			done, _ := f.Job(j.ID)
			require.Equal(t, "no_updates_running", done.FailureReason)
			require.Equal(t, retried, done.Retried)
			pending := f.Jobs(gitlabtest.JobFilter{Statuses: []gitlabtest.Status{gitlabtest.StatusPending}})
			if !retried {
				require.Empty(t, pending)
				return
			}
			require.Len(t, pending, 1)
			require.Equal(t, j.ID, pending[0].RetryOf)
			again := f.take(f.runner())
			now.Add(2 * time.Minute)
			require.Equal(t, 1, f.SweepTimeouts())
			last, _ := f.Job(again.ID)
			require.False(t, last.Retried, "once is the most")
		})
	}
}
