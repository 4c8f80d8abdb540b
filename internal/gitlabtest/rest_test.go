package gitlabtest_test

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/gitlabtest"
)

func TestErrorShapes(t *testing.T) {
	t.Parallel()
	f := start(t)
	read, runners := f.CreateToken("read_api"), f.CreateToken("create_runner")
	revoked := f.CreateToken("api")
	f.RevokeToken(revoked)
	expired := f.CreateTokenWith(gitlabtest.TokenOptions{Scopes: []string{"api"}, ExpiresAt: time.Now().Add(-time.Hour)})
	project := "/projects/" + itoa(f.project.ID)
	for name, c := range map[string]struct {
		method, path, token string
		body                any
		status              int
		want                string
	}{
		"no token":         {"GET", project, "", nil, 401, `{"message":"401 Unauthorized"}`},
		"wrong token":      {"GET", project, "glpat-x", nil, 401, `{"message":"401 Unauthorized"}`},
		"revoked":          {"GET", project, revoked, nil, 401, `{"error":"invalid_token","error_description":"Token was revoked. You have to re-authorize from the user."}`},
		"expired":          {"GET", project, expired, nil, 401, `{"error":"invalid_token","error_description":"Token is expired. You can either do re-authorization or token refresh."}`},
		"scope":            {"GET", project, runners, nil, 403, `{"error":"insufficient_scope","error_description":"The request requires higher privileges than provided by the access token.","scope":"api read_api"}`},
		"read only":        {"POST", "/user/runners", read, object{}, 403, `{"error":"insufficient_scope","error_description":"The request requires higher privileges than provided by the access token.","scope":"api create_runner"}`},
		"no project":       {"GET", "/projects/4711", f.token, nil, 404, `{"message":"404 Project Not Found"}`},
		"no project path":  {"GET", "/projects/no%2Fsuch", f.token, nil, 404, `{"message":"404 Project Not Found"}`},
		"no job":           {"GET", project + "/jobs/1", f.token, nil, 404, `{"message":"404 Not Found"}`},
		"no route":         {"GET", "/nothing/here", f.token, nil, 404, `{"error":"404 Not Found"}`},
		"bad scope param":  {"GET", project + "/jobs?scope[]=sleeping", f.token, nil, 400, `{"error":"scope does not have a valid value"}`},
		"missing param":    {"POST", "/user/runners", f.token, object{}, 400, `{"error":"runner_type is missing"}`},
		"bad type":         {"POST", "/user/runners", f.token, object{"runner_type": "x"}, 400, `{"error":"runner_type does not have a valid value"}`},
		"no project given": {"POST", "/user/runners", f.token, object{"runner_type": "project_type"}, 400, `{"error":"project_id is missing"}`},
		"no tags": {
			"POST", "/user/runners", f.token,
			object{"runner_type": "project_type", "project_id": f.project.ID, "run_untagged": false},
			400,
			`{"message":{"tags_list":["can not be empty when runner is not allowed to pick untagged jobs"]}}`,
		},
		"timeout too short": {
			"POST", "/user/runners", f.token,
			object{"runner_type": "project_type", "project_id": f.project.ID, "maximum_timeout": 60},
			400,
			`{"message":{"maximum_timeout":["needs to be at least 10 minutes"]}}`,
		},
		"bad body":      {"POST", "/user/runners", f.token, "{", 400, ""},
		"bad hook url":  {"POST", project + "/hooks", f.token, object{"url": "ftp://x"}, 422, ""},
		"bad whsec":     {"POST", project + "/hooks", f.token, object{"url": "http://x", "signing_token": "abc"}, 422, ""},
		"no unlimited":  {"POST", project + "/jobs/x/cancel", f.token, nil, 400, `{"error":"job_id is invalid"}`},
		"runner absent": {"GET", "/runners/4711", f.token, nil, 404, `{"message":"404 Not found"}`},
	} {
		a := f.do(c.method, "/api/v4"+c.path, c.body, "PRIVATE-TOKEN", c.token)
		require.Equal(t, c.status, a.status, "%s: %s", name, a.body)
		require.Equal(t, "application/json", a.header.Get("Content-Type"), name)
		if c.want != "" {
			require.JSONEq(t, c.want, string(a.body), name)
		}
	}
	require.Equal(t, 200, f.do("GET", "/api/v4"+project, nil, "Authorization", "Bearer "+read).status)
}

func TestFormsAreTaken(t *testing.T) {
	t.Parallel()
	f := start(t)
	a := f.do("POST", "/api/v4/user/runners", "runner_type=instance_type&tag_list=a,b&run_untagged=false&paused=true",
		"PRIVATE-TOKEN", f.token, "Content-Type", "application/x-www-form-urlencoded")
	require.Equal(t, http.StatusCreated, a.status, "%s", a.body)
	r := f.Runners()[0]
	require.Equal(t, []string{"a", "b"}, r.Tags)
	require.True(t, r.Paused)
	require.False(t, r.RunUntagged)
}

func TestPagingLinks(t *testing.T) {
	t.Parallel()
	f := start(t)
	for range 3 {
		f.push(oneJob)
	}
	path := "/projects/" + itoa(f.project.ID) + "/jobs?per_page=2&scope[]=pending"
	a := f.api("GET", path, nil)
	require.Equal(t, "1", a.header.Get("X-Page"))
	require.Equal(t, "2", a.header.Get("X-Next-Page"))
	require.Contains(t, a.header.Get("Link"), `rel="next"`)
	require.Contains(t, a.header.Get("Link"), "scope%5B%5D=pending")
	a = f.api("GET", path+"&page=2", nil)
	require.Empty(t, a.header.Get("X-Next-Page"))
	var jobs []object
	a.decode(t, &jobs)
	require.Len(t, jobs, 1)
	a = f.api("GET", path+"&page=9", nil)
	a.decode(t, &jobs)
	require.Empty(t, jobs)
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	now := newClock()
	f := start(t, func(c *gitlabtest.Config) { c.Now = now.Now })
	f.SetRateLimit(gitlabtest.RateLimit{Name: "jobs", Method: "GET", Path: "/api/v4/projects/*/jobs", Limit: 2})
	path := "/projects/" + itoa(f.project.ID) + "/jobs"
	a := f.api("GET", path, nil)
	require.Equal(t, "2", a.header.Get("RateLimit-Limit"))
	require.Equal(t, "1", a.header.Get("RateLimit-Remaining"))
	require.Equal(t, 200, f.api("GET", path, nil).status)
	a = f.api("GET", path, nil)
	require.Equal(t, http.StatusTooManyRequests, a.status)
	require.Equal(t, "0", a.header.Get("RateLimit-Remaining"))
	require.Equal(t, "37", a.header.Get("Retry-After"), "36 s of this minute are left")
	reset, err := strconv.ParseInt(a.header.Get("RateLimit-Reset"), 10, 64)
	require.NoError(t, err)
	require.Equal(t, now.Now().Truncate(time.Minute).Add(time.Minute).Unix(), reset)
	at, err := time.Parse(http.TimeFormat, a.header.Get("RateLimit-ResetTime"))
	require.NoError(t, err)
	require.Equal(t, reset, at.Unix())
	other := f.CreateToken("read_api")
	require.Equal(t, 200, f.do("GET", "/api/v4"+path, nil, "PRIVATE-TOKEN", other).status)
	require.Equal(t, 200, f.api("GET", "/projects/"+itoa(f.project.ID), nil).status)
	now.Add(time.Minute)
	require.Equal(t, 200, f.api("GET", path, nil).status)
}

func TestFaultsOverHTTP(t *testing.T) {
	t.Parallel()
	f := start(t)
	a := f.do("POST", "/-/emulator/faults", object{"action": "status", "status": 500, "path": "/api/v4/**", "count": 1, "skip": 1})
	require.Equal(t, http.StatusCreated, a.status, "%s", a.body)
	require.Equal(t, 200, f.api("GET", "/version", nil).status)
	require.Equal(t, 500, f.api("GET", "/version", nil).status)
	require.Equal(t, 200, f.api("GET", "/version", nil).status)
	var faults []gitlabtest.Fault
	f.do("GET", "/-/emulator/faults", nil).decode(t, &faults)
	require.Len(t, faults, 1)
	require.Equal(t, 1, faults[0].Struck)

	require.Equal(t, 400, f.do("POST", "/-/emulator/faults", object{"action": "explode"}).status)
	require.Equal(t, 400, f.do("POST", "/-/emulator/faults", object{"action": "delay", "delay": "soon"}).status)
	require.Equal(t, 204, f.do("DELETE", "/-/emulator/faults/"+itoa(faults[0].ID), nil).status)
	require.Empty(t, f.Faults())

	require.Equal(t, 201, f.do("POST", "/-/emulator/faults", object{"action": "delay_answer", "delay": "30ms"}).status)
	began := time.Now()
	require.Equal(t, 200, f.api("GET", "/version", nil).status)
	require.GreaterOrEqual(t, time.Since(began), 30*time.Millisecond)
	require.Equal(t, 204, f.do("DELETE", "/-/emulator/faults", nil).status)

	_, err := f.AddFault(gitlabtest.Fault{Action: gitlabtest.FaultStatus, Status: 503, Percent: 50})
	require.NoError(t, err)
	hit := 0
	for range 200 {
		if f.api("GET", "/version", nil).status == 503 {
			hit++
		}
	}
	require.InDelta(t, 100, hit, 40)
	f.ClearFaults()
	require.Equal(t, 204, f.Requests()["GET /api/v4/version"])
	var jobs []gitlabtest.Job
	f.do("GET", "/-/emulator/jobs", nil).decode(t, &jobs)
	require.Empty(t, jobs)
}

func TestGitOnlyOwnProject(t *testing.T) {
	t.Parallel()
	f := start(t)
	_, err := f.CreateProject("group/private", nil)
	require.NoError(t, err)
	f.push(oneJob)
	j := f.take(f.runner())
	refs := func(repo, user, password string) answer {
		return f.do("GET", "/"+repo+".git/info/refs?service=git-upload-pack", nil, "Authorization", basic(user, password))
	}
	own := refs("group/app", "gitlab-ci-token", j.Token)
	require.Equal(t, 200, own.status)
	require.Equal(t, "application/x-git-upload-pack-advertisement", own.header.Get("Content-Type"))
	require.Equal(t, 401, refs("group/private", "gitlab-ci-token", j.Token).status)
	require.Equal(t, 401, refs("group/app", "gitlab-ci-token", "glcbt-64_no").status)
	require.Equal(t, 401, f.do("GET", "/group/app.git/info/refs?service=git-upload-pack", nil).status)
	require.Equal(t, 200, refs("group/private", "oauth2", f.token).status)
	require.Equal(t, 403, f.do("POST", "/group/app.git/git-receive-pack", "", "Authorization", basic("gitlab-ci-token", j.Token)).status)
	require.Equal(t, 404, f.do("GET", "/group/app", nil).status)
	require.NoError(t, f.CancelJob(j.ID))
	require.Equal(t, 200, refs("group/app", "gitlab-ci-token", j.Token).status, "canceling still cleans up")
}
