package gitlabtest_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// GitLab's own client must be able to decode every answer.

func (f *fixture) gitlab(token string) *gitlab.Client {
	f.t.Helper()
	c, err := gitlab.NewClient(token, gitlab.WithBaseURL(f.URL()), gitlab.WithHTTPClient(f.client), gitlab.WithOnlyIdempotentRetries())
	require.NoError(f.t, err)
	return c
}

func TestClientRunners(t *testing.T) {
	t.Parallel()
	f := start(t)
	c := f.gitlab(f.token)
	made, response, err := c.Users.CreateUserRunner(&gitlab.CreateUserRunnerOptions{
		RunnerType: gitlab.Ptr("project_type"), ProjectID: gitlab.Ptr(f.project.ID), Description: gitlab.Ptr("fr-1"),
		Locked: gitlab.Ptr(true), RunUntagged: gitlab.Ptr(false), TagList: &[]string{"firecracker-2cpu-4gb", "x"},
		MaximumTimeout: gitlab.Ptr(int64(3600)), MaintenanceNote: gitlab.Ptr("by a test"),
	})
	require.NoError(t, err)
	require.Equal(t, http.StatusCreated, response.StatusCode)
	require.Regexp(t, `^glrt-.{20}$`, made.Token)
	require.Nil(t, made.TokenExpiresAt)

	details, _, err := c.Runners.GetRunnerDetails(made.ID)
	require.NoError(t, err)
	require.Equal(t, "never_contacted", details.Status)
	require.Equal(t, []string{"firecracker-2cpu-4gb", "x"}, details.TagList)
	require.True(t, details.Locked)
	require.False(t, details.RunUntagged)
	require.EqualValues(t, 3600, details.MaximumTimeout)
	require.Equal(t, "by a test", details.MaintenanceNote)
	require.Equal(t, f.project.ID, details.Projects[0].ID)

	for range 4 {
		f.runner("y")
	}
	list, response, err := c.Runners.ListRunners(&gitlab.ListRunnersOptions{ListOptions: gitlab.ListOptions{PerPage: 2, Page: 2}})
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.EqualValues(t, 5, response.TotalItems)
	require.EqualValues(t, 3, response.TotalPages)
	require.EqualValues(t, 3, response.NextPage)
	tagged, _, err := c.Runners.ListAllRunners(&gitlab.ListRunnersOptions{TagList: &[]string{"x"}, Status: gitlab.Ptr("never_contacted")})
	require.NoError(t, err)
	require.Len(t, tagged, 1)
	own, _, err := c.Runners.ListProjectRunners(f.project.ID, &gitlab.ListProjectRunnersOptions{Type: gitlab.Ptr("project_type")})
	require.NoError(t, err)
	require.Len(t, own, 5)

	_, _, err = c.Runners.UpdateRunnerDetails(made.ID, &gitlab.UpdateRunnerDetailsOptions{Paused: gitlab.Ptr(true)})
	require.NoError(t, err)
	paused, _, err := c.Runners.ListRunners(&gitlab.ListRunnersOptions{Paused: gitlab.Ptr(true)})
	require.NoError(t, err)
	require.Len(t, paused, 1)

	f.request(made.Token, "")
	machines, _, err := c.Runners.ListRunnerManagers(made.ID)
	require.NoError(t, err)
	require.Equal(t, "s_0123456789ab", machines[0].SystemID)
	reset, _, err := c.Runners.ResetRunnerAuthenticationToken(made.ID)
	require.NoError(t, err)
	require.NotEqual(t, made.Token, *reset.Token)
	require.Equal(t, http.StatusForbidden, f.request(made.Token, "").status)

	_, err = c.Runners.RemoveRunner(made.ID)
	require.NoError(t, err)
	_, response, err = c.Runners.GetRunnerDetails(made.ID)
	require.Error(t, err)
	require.Equal(t, http.StatusNotFound, response.StatusCode)
}

func TestClientJobs(t *testing.T) {
	t.Parallel()
	f := start(t)
	c := f.gitlab(f.token)
	job := f.push("one:\n  tags: [firecracker-2cpu-4gb, $CI_PROJECT_NAME]\n  script: [x]\n")[0]
	pending, response, err := c.Jobs.ListProjectJobs("group/app", &gitlab.ListJobsOptions{Scope: &[]gitlab.BuildStateValue{gitlab.Pending}})
	require.NoError(t, err)
	require.Len(t, pending, 1)
	require.Empty(t, response.Header.Get("X-Total"), "GitLab does not count a project's jobs")
	require.Equal(t, []string{"firecracker-2cpu-4gb", "app"}, pending[0].TagList)
	require.Zero(t, pending[0].Runner.ID)
	require.Equal(t, job.PipelineID, pending[0].Pipeline.ID)

	r := f.runner("firecracker-2cpu-4gb", "app")
	waiting, _, err := c.Runners.ListRunnerJobs(r.ID, &gitlab.ListRunnerJobsOptions{})
	require.NoError(t, err)
	require.Empty(t, waiting, "a pending job has no runner")
	f.take(r)
	got, _, err := c.Jobs.GetJob(f.project.ID, job.ID)
	require.NoError(t, err)
	require.Equal(t, "running", got.Status)
	require.Equal(t, r.ID, got.Runner.ID)
	require.NotNil(t, got.StartedAt)
	running, _, err := c.Runners.ListRunnerJobs(r.ID, &gitlab.ListRunnerJobsOptions{Status: gitlab.Ptr("running")})
	require.NoError(t, err)
	require.Len(t, running, 1)

	canceled, _, err := c.Jobs.CancelJob(f.project.ID, job.ID)
	require.NoError(t, err)
	require.Equal(t, "canceling", canceled.Status)
	_, response, err = c.Jobs.RetryJob(f.project.ID, job.ID)
	require.Error(t, err)
	require.Equal(t, http.StatusForbidden, response.StatusCode)
	f.do("PUT", "/api/v4/jobs/"+itoa(job.ID), object{"token": f.JobToken(job.ID), "state": "failed"})
	retried, _, err := c.Jobs.RetryJob(f.project.ID, job.ID)
	require.NoError(t, err)
	require.NotEqual(t, job.ID, retried.ID)
	require.Equal(t, "pending", retried.Status)

	trace, _, err := c.Jobs.GetTraceFile(f.project.ID, job.ID)
	require.NoError(t, err)
	require.Zero(t, trace.Len())
	_, response, err = c.Jobs.GetJob(f.project.ID, 4711)
	require.Error(t, err)
	require.Equal(t, http.StatusNotFound, response.StatusCode)

	p, _, err := c.Pipelines.CreatePipeline(f.project.ID, &gitlab.CreatePipelineOptions{Ref: gitlab.Ptr("main")})
	require.NoError(t, err)
	p, _, err = c.Pipelines.CancelPipelineBuild(f.project.ID, p.ID)
	require.NoError(t, err)
	require.Equal(t, "canceled", p.Status)
}

func TestClientHooks(t *testing.T) {
	t.Parallel()
	f := start(t)
	c := f.gitlab(f.token)
	made, response, err := c.Projects.AddProjectHook(f.project.ID, &gitlab.AddProjectHookOptions{
		URL: gitlab.Ptr("http://127.0.0.1:1/hook"), JobEvents: gitlab.Ptr(true), Token: gitlab.Ptr("plain"),
		SigningToken: gitlab.Ptr("whsec_dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHRlc3Q="),
	})
	require.NoError(t, err)
	require.Equal(t, http.StatusCreated, response.StatusCode)
	raw := f.api("GET", "/projects/"+itoa(f.project.ID)+"/hooks/"+itoa(made.ID), nil)
	require.NotContains(t, string(raw.body), "whsec_")
	require.NotContains(t, string(raw.body), "plain")
	var view object
	raw.decode(t, &view)
	require.Equal(t, true, view["token_present"])
	require.Equal(t, true, view["signing_token_present"])

	hooks, _, err := c.Projects.ListProjectHooks(f.project.ID, nil)
	require.NoError(t, err)
	require.Len(t, hooks, 1)
	require.True(t, hooks[0].JobEvents)
	require.True(t, hooks[0].PushEvents, "unless it is said")
	require.Equal(t, "executable", hooks[0].AlertStatus)
	_, _, err = c.Projects.EditProjectHook(f.project.ID, made.ID, &gitlab.EditProjectHookOptions{URL: &made.URL, JobEvents: gitlab.Ptr(false)})
	require.NoError(t, err)
	require.Equal(t, "plain", f.Hooks(f.project.ID)[0].Token, "an edit that leaves the token out keeps it")
	edited, _, err := c.Projects.EditProjectHook(f.project.ID, made.ID, &gitlab.EditProjectHookOptions{URL: gitlab.Ptr("http://127.0.0.1:1/other")})
	require.NoError(t, err)
	require.Equal(t, "http://127.0.0.1:1/other", edited.URL)
	require.Empty(t, f.Hooks(f.project.ID)[0].Token, "it was for the other address")
	_, err = c.Projects.DeleteProjectHook(f.project.ID, made.ID)
	require.NoError(t, err)
	require.Empty(t, f.Hooks(f.project.ID))
}

func TestClientProjectsAndTokens(t *testing.T) {
	t.Parallel()
	f := start(t)
	second, err := f.CreateProject("group/sub/two", nil)
	require.NoError(t, err)
	c := f.gitlab(f.token)
	v, _, err := c.Version.GetVersion()
	require.NoError(t, err)
	require.Equal(t, "19.4.0-ee", v.Version)
	self, _, err := c.PersonalAccessTokens.GetSinglePersonalAccessToken()
	require.NoError(t, err)
	require.Equal(t, []string{"api"}, self.Scopes)
	user, _, err := c.Users.CurrentUser()
	require.NoError(t, err)
	require.Equal(t, "root", user.Username)
	p, _, err := c.Projects.GetProject("group/sub/two", nil)
	require.NoError(t, err)
	require.Equal(t, second.ID, p.ID)
	all, _, err := c.Projects.ListProjects(&gitlab.ListProjectsOptions{Membership: gitlab.Ptr(true)})
	require.NoError(t, err)
	require.Len(t, all, 2)

	member := f.gitlab(f.CreateTokenWith(gitlabtest.TokenOptions{Scopes: []string{"api"}, Role: gitlabtest.Maintainer, Projects: []int64{second.ID}}))
	all, _, err = member.Projects.ListProjects(&gitlab.ListProjectsOptions{Membership: gitlab.Ptr(true)})
	require.NoError(t, err)
	require.Len(t, all, 1)
	_, response, err := member.Projects.GetProject(f.project.ID, nil)
	require.Error(t, err)
	require.Equal(t, http.StatusNotFound, response.StatusCode)
	_, response, err = member.Users.CreateUserRunner(&gitlab.CreateUserRunnerOptions{
		RunnerType: gitlab.Ptr("project_type"), ProjectID: gitlab.Ptr(second.ID), TagList: &[]string{"a"},
	})
	require.Error(t, err)
	require.Equal(t, http.StatusForbidden, response.StatusCode, "only an owner makes runners")
}

// The ambiguous create: the runner is there, its token is lost.
func TestClientCreateRunnerAmbiguous(t *testing.T) {
	t.Parallel()
	f := start(t)
	for _, action := range []gitlabtest.FaultAction{gitlabtest.FaultResetAfter, gitlabtest.FaultStatusAfter} {
		_, err := f.AddFault(gitlabtest.Fault{Action: action, Status: 502, Method: "POST", Path: "/api/v4/user/runners", Count: 1})
		require.NoError(t, err)
		before := len(f.Runners())
		_, _, err = f.gitlab(f.token).Users.CreateUserRunner(&gitlab.CreateUserRunnerOptions{
			RunnerType: gitlab.Ptr("project_type"), ProjectID: gitlab.Ptr(f.project.ID), TagList: &[]string{"a"},
		})
		require.Error(t, err)
		require.Len(t, f.Runners(), before+1, string(action))
	}
	_, err := f.AddFault(gitlabtest.Fault{Action: gitlabtest.FaultResetBefore, Method: "POST", Path: "/api/v4/user/runners", Count: 1})
	require.NoError(t, err)
	_, _, err = f.gitlab(f.token).Users.CreateUserRunner(&gitlab.CreateUserRunnerOptions{
		RunnerType: gitlab.Ptr("project_type"), ProjectID: gitlab.Ptr(f.project.ID), TagList: &[]string{"a"},
	})
	require.Error(t, err)
	require.Len(t, f.Runners(), 2)
}

func TestRunnerTokenExpiryOption(t *testing.T) {
	t.Parallel()
	f := start(t)
	at := time.Now().Add(20 * time.Minute).UTC().Truncate(time.Second)
	body := object{"runner_type": "project_type", "project_id": f.project.ID, "tag_list": "a,b", "token_expires_at": at.Format(time.RFC3339)}
	a := f.api("POST", "/user/runners", body)
	require.Equal(t, http.StatusCreated, a.status, "%s", a.body)
	require.Equal(t, at, f.Runners()[0].TokenExpiresAt.UTC())
	require.Equal(t, []string{"a", "b"}, f.Runners()[0].Tags)
	body["token_expires_at"] = time.Now().Add(time.Minute).Format(time.RFC3339)
	require.Equal(t, http.StatusBadRequest, f.api("POST", "/user/runners", body).status)
}

func TestClientGroupAndAssignedRunners(t *testing.T) {
	t.Parallel()
	f := start(t)
	second, err := f.CreateProject("group/sub/two", nil)
	require.NoError(t, err)
	c := f.gitlab(f.token)
	p, _, err := c.Projects.GetProject(second.ID, nil)
	require.NoError(t, err)
	require.Equal(t, "group/sub", p.Namespace.FullPath)
	made, _, err := c.Users.CreateUserRunner(&gitlab.CreateUserRunnerOptions{
		RunnerType: gitlab.Ptr("group_type"), GroupID: gitlab.Ptr(p.Namespace.ID), TagList: &[]string{"a"},
	})
	require.NoError(t, err)
	f.push("one: {script: x, tags: [a]}\n")
	require.Equal(t, http.StatusNoContent, f.request(made.Token, "").status, "group/app is not below group/sub")
	_, err = f.Push(second.ID, map[string]string{".gitlab-ci.yml": "one: {script: x, tags: [a]}\n"})
	require.NoError(t, err)
	require.Equal(t, http.StatusCreated, f.request(made.Token, "").status)

	free := f.CreateRunner(gitlabtest.Runner{ProjectIDs: []int64{second.ID}, Tags: []string{"a"}})
	locked := f.CreateRunner(gitlabtest.Runner{ProjectIDs: []int64{second.ID}, Tags: []string{"a"}, Locked: true})
	_, _, err = c.Runners.EnableProjectRunner(f.project.ID, &gitlab.EnableProjectRunnerOptions{RunnerID: free.ID})
	require.NoError(t, err)
	_, response, err := c.Runners.EnableProjectRunner(f.project.ID, &gitlab.EnableProjectRunnerOptions{RunnerID: locked.ID})
	require.Error(t, err)
	require.Equal(t, http.StatusForbidden, response.StatusCode)
	require.Equal(t, http.StatusNoContent, f.request(locked.Token, "").status)
	require.Equal(t, http.StatusCreated, f.request(free.Token, "").status)

	pl, err := f.RunPipeline(f.project.ID, "")
	require.NoError(t, err)
	got, _, err := c.Pipelines.GetPipeline(f.project.ID, pl.ID)
	require.NoError(t, err)
	require.Equal(t, "pending", got.Status)
	jobs, _, err := c.Jobs.ListPipelineJobs(f.project.ID, pl.ID, nil)
	require.NoError(t, err)
	require.Len(t, jobs, 1)
	var counts map[string]int
	f.do("GET", "/-/emulator/requests", nil).decode(t, &counts)
	require.Equal(t, 1, counts["POST /api/v4/user/runners"])
	require.NotContains(t, counts, "GET /-/emulator/requests")
}
