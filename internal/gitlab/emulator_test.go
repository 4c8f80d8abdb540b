package gitlab

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// emulator starts an emulated GitLab with one project that has pending jobs.
func emulator(t *testing.T) (*gitlabtest.Server, *gitlabtest.Project, *gitlabtest.Pipeline) {
	t.Helper()
	srv, err := gitlabtest.Start(gitlabtest.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	project, err := srv.CreateProject("group/app", map[string]string{"README.md": "hello\n"})
	require.NoError(t, err)
	pipeline, err := srv.Push(project.ID, map[string]string{".gitlab-ci.yml": `
build:
  tags: [firecracker-2cpu-4gb, deploy]
  script: [make]
test:
  tags: [firecracker-1cpu-2gb]
  script: [make test]
`})
	require.NoError(t, err)
	return srv, project, pipeline
}

func TestClient_Emulator_OK(t *testing.T) {
	t.Parallel()
	srv, project, pipeline := emulator(t)
	token := srv.CreateToken("api")
	c := newClient(t, srv.URL(), func(cfg *Config) { cfg.Token = StaticToken(firerunner.Secret(token)) })
	ctx := t.Context()

	check, err := c.Check(ctx)
	require.NoError(t, err)
	require.Equal(t, "19.4.0-ee", check.Version)
	require.Equal(t, []string{"api"}, check.Scopes)
	require.NotEmpty(t, check.User)

	pending, err := c.PendingJobs(ctx, project.ID)
	require.NoError(t, err)
	require.Len(t, pending, 2)
	job, err := c.Job(ctx, project.ID, pipeline.JobIDs[0])
	require.NoError(t, err)
	require.Equal(t, firerunner.JobPending, job.Status)
	require.Equal(t, firerunner.NewTagSet("firecracker-2cpu-4gb", "deploy"), job.Tags)
	require.Equal(t, project.ID, job.ProjectID)
	require.Equal(t, "group/app", job.ProjectPath)
	require.Equal(t, pipeline.ID, job.PipelineID)
	require.Equal(t, "build", job.Name)
	require.Equal(t, "main", job.Ref)
	require.False(t, job.CreatedAt.IsZero())
	require.Zero(t, job.GitLabID)

	r := request()
	r.ProjectID = project.ID
	made, err := c.CreateRunner(ctx, r)
	require.NoError(t, err)
	require.Contains(t, made.Token.Reveal(), "glrt-")
	there := srv.Runners()
	require.Len(t, there, 1)
	require.Equal(t, made.ID, there[0].ID)
	require.Equal(t, "project_type", there[0].Type)
	require.Equal(t, []int64{project.ID}, there[0].ProjectIDs)
	require.True(t, there[0].Locked)
	require.False(t, there[0].RunUntagged)
	require.ElementsMatch(t, []string{"deploy", "firecracker-2cpu-4gb"}, there[0].Tags)
	require.Equal(t, time.Hour, there[0].MaximumTimeout)

	for _, where := range []int64{project.ID, 0} {
		found, err := c.FindRunners(ctx, where, "firerunner/test/")
		require.NoError(t, err)
		require.Len(t, found, 1)
		require.Equal(t, made.ID, found[0].ID)
		require.Equal(t, "never_contacted", found[0].Status)
		none, err := c.FindRunners(ctx, where, "firerunner/other/")
		require.NoError(t, err)
		require.Empty(t, none)
	}
	jobs, err := c.RunnerJobs(ctx, made.ID)
	require.NoError(t, err)
	require.Empty(t, jobs)
	took, err := http.Post(srv.URL()+"/api/v4/jobs/request", "application/json",
		strings.NewReader(`{"token":"`+made.Token.Reveal()+`","info":{"features":{}}}`))
	require.NoError(t, err)
	require.NoError(t, took.Body.Close())
	require.Equal(t, http.StatusCreated, took.StatusCode)
	jobs, err = c.RunnerJobs(ctx, made.ID)
	require.NoError(t, err)
	require.Len(t, jobs, 1)
	require.Equal(t, pipeline.JobIDs[0], jobs[0].ID)
	require.Equal(t, project.ID, jobs[0].ProjectID)
	require.Equal(t, "group/app", jobs[0].ProjectPath)
	require.Equal(t, firerunner.JobRunning, jobs[0].Status)
	job, err = c.Job(ctx, project.ID, pipeline.JobIDs[0])
	require.NoError(t, err)
	require.Equal(t, made.ID, job.GitLabID)
	require.False(t, job.StartedAt.IsZero())
	require.NoError(t, c.PauseRunner(ctx, made.ID))
	require.True(t, srv.Runners()[0].Paused)

	require.NoError(t, c.DeleteRunner(ctx, made.ID))
	require.Empty(t, srv.Runners())
	require.NoError(t, c.DeleteRunner(ctx, made.ID), "deleting what is not there is not an error")
}

func TestClient_Emulator_ErrMissing(t *testing.T) {
	t.Parallel()
	srv, project, _ := emulator(t)
	c := newClient(t, srv.URL(), func(cfg *Config) { cfg.Token = StaticToken(firerunner.Secret(srv.CreateToken("api"))) })
	_, err := c.Job(t.Context(), project.ID, 999)
	require.Equal(t, firerunner.NotFound, firerunner.CodeOf(err))
	_, err = c.RunnerJobs(t.Context(), 999)
	require.Equal(t, firerunner.NotFound, firerunner.CodeOf(err))
	require.Equal(t, firerunner.NotFound, firerunner.CodeOf(c.PauseRunner(t.Context(), 999)))
}

func TestClient_Emulator_ErrToken(t *testing.T) {
	t.Parallel()
	srv, project, _ := emulator(t)
	weak := newClient(t, srv.URL(), func(cfg *Config) { cfg.Token = StaticToken(firerunner.Secret(srv.CreateToken("read_api"))) })
	r := request()
	r.ProjectID = project.ID
	_, err := weak.CreateRunner(t.Context(), r)
	require.Equal(t, firerunner.Unauthorized, firerunner.CodeOf(err))
	require.Contains(t, firerunner.HintOf(err), "create_runner")

	wrong := newClient(t, srv.URL())
	_, err = wrong.Check(t.Context())
	require.Equal(t, firerunner.Unauthorized, firerunner.CodeOf(err))
	require.Contains(t, firerunner.HintOf(err), "token_file")
}

// An answer that gets lost after GitLab made the runner is the case that leaves orphans: there must be one POST, and
// the runner must be found by its description.
func TestCreateRunner_Emulator_ErrAmbiguous(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]gitlabtest.Fault{
		"502":     {Action: gitlabtest.FaultStatusAfter, Status: 502},
		"503":     {Action: gitlabtest.FaultStatusAfter, Status: 503},
		"reset":   {Action: gitlabtest.FaultResetAfter},
		"timeout": {Action: gitlabtest.FaultDelayAnswer, Delay: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv, project, _ := emulator(t)
			c := newClient(t, srv.URL(), func(cfg *Config) {
				cfg.Token = StaticToken(firerunner.Secret(srv.CreateToken("api")))
				if name == "timeout" {
					cfg.Timeout = 200 * time.Millisecond
				}
			})
			fault.Method, fault.Path = "POST", "/api/v4/user/runners"
			_, err := srv.AddFault(fault)
			require.NoError(t, err)

			r := request()
			r.ProjectID = project.ID
			_, err = c.CreateRunner(t.Context(), r)
			require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err), "%v", err)
			require.Equal(t, 1, srv.Requests()["POST /api/v4/user/runners"])
			require.Len(t, srv.Runners(), 1)
			srv.ClearFaults()
			if name != "timeout" { // its patience is too short to list
				found, err := c.FindRunners(t.Context(), project.ID, r.Description)
				require.NoError(t, err)
				require.Len(t, found, 1)
			}
		})
	}
}

func TestClient_Emulator_ErrRateLimit(t *testing.T) {
	t.Parallel()
	srv, project, _ := emulator(t)
	c := newClient(t, srv.URL(), func(cfg *Config) { cfg.Token = StaticToken(firerunner.Secret(srv.CreateToken("api"))) })
	srv.SetRateLimit(gitlabtest.RateLimit{Name: "jobs", Path: "/api/v4/projects/*/jobs", Limit: 1})
	_, err := c.PendingJobs(t.Context(), project.ID)
	require.NoError(t, err)
	began := time.Now()
	_, err = c.PendingJobs(t.Context(), project.ID)
	require.Equal(t, firerunner.Exhausted, firerunner.CodeOf(err), "%v", err)
	require.Less(t, time.Since(began), 5*time.Second, "a 429 is not waited for")
	var limited *RateLimited
	require.ErrorAs(t, err, &limited)
	require.Positive(t, limited.RetryAfter())
	require.LessOrEqual(t, limited.RetryAfter(), time.Minute)
}
