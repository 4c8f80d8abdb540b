package gitlabtest_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// The emulator is only worth something if the stock runner cannot tell it from GitLab. So these tests
// run an unpatched gitlab-runner against it: path in FIRERUNNER_GITLAB_RUNNER, or built by
// test/gitlabrunner/build.sh, which keeps what it built.

var findRunner = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("FIRERUNNER_GITLAB_RUNNER"); path != "" {
		_, err := os.Stat(path)
		return path, err
	}
	build, err := filepath.Abs("../../test/gitlabrunner/build.sh")
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "gitlab-runner-")
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	cmd := exec.Command(build, filepath.Join(dir, "gitlab-runner"))
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", build, err, out.String())
	}
	return filepath.Join(dir, "gitlab-runner"), nil
})

func runnerBinary(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("runs the real gitlab-runner: left out by -short")
	}
	path, err := findRunner()
	require.NoError(t, err, "the conformance tests need gitlab-runner: set FIRERUNNER_GITLAB_RUNNER, or make test/gitlabrunner/build.sh work")
	return path
}

// process is one gitlab-runner run-single.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}
	mu   sync.Mutex
	log  bytes.Buffer
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// runSingle starts the form of gitlab-runner that a guest uses: a config file, at most one job.
func (f *fixture) runSingle(r gitlabtest.Runner, waitTimeout int) *process {
	f.t.Helper()
	binary := runnerBinary(f.t)
	dir := f.t.TempDir()
	config := fmt.Sprintf(`[[runners]]
  name = "conformance"
  url = %q
  token = %q
  executor = "shell"
  builds_dir = %q
  cache_dir = %q
`, f.URL(), r.Token, dir+"/builds", dir+"/cache")
	require.NoError(f.t, os.WriteFile(dir+"/config.toml", []byte(config), 0o600))
	p := &process{t: f.t, done: make(chan struct{})}
	p.cmd = exec.Command(binary, "--log-format", "json", "run-single", "-c", dir+"/config.toml", "-r", "conformance",
		"--max-builds", "1", "--wait-timeout", fmt.Sprint(waitTimeout))
	p.cmd.Dir = dir
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LANG=C.UTF-8"}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(f.t, p.cmd.Start())
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait()
	}()
	f.t.Cleanup(func() {
		p.kill()
		if f.t.Failed() {
			f.t.Logf("gitlab-runner said:\n%s", p.output())
		}
	})
	return p
}

func (p *process) kill() {
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
	}
}

// wait expects the process to end by itself.
func (p *process) wait(ctx context.Context) {
	p.t.Helper()
	select {
	case <-p.done:
	case <-ctx.Done():
		p.t.Fatalf("gitlab-runner did not end: %v\n%s", context.Cause(ctx), p.output())
	}
}

const noGit = "variables: {GIT_STRATEGY: none}\n"

func TestConformanceSuccess(t *testing.T) {
	t.Parallel()
	f := start(t)
	job := f.push(noGit + "hello:\n  script: [echo \"out of $CI_JOB_NAME\", 'echo \"id=$CI_JOB_ID\"']\n  after_script: [echo after]\n")[0]
	r := f.runner()
	p := f.runSingle(r, 20)
	done, err := f.WaitJob(f.ctx, job.ID)
	require.NoError(t, err)
	p.wait(f.ctx)
	require.Zero(t, p.cmd.ProcessState.ExitCode())

	require.Equal(t, gitlabtest.StatusSuccess, done.Status)
	require.Nil(t, done.ExitCode)
	require.Equal(t, r.ID, done.RunnerID)
	require.Len(t, done.Handouts, 1)
	require.Regexp(t, `^[sr]_[0-9a-zA-Z]{12}$`, done.Handouts[0].SystemID)
	// The confirmation of two-phase commit, and one final word: its checksum was right, or it would have been a 412.
	require.Equal(t, map[string]int{"running": 1, "success": 1}, done.Updates)
	require.Zero(t, done.Rejected)
	trace := f.Trace(job.ID)
	require.Contains(t, trace, "out of hello")
	require.Contains(t, trace, fmt.Sprintf("id=%d", job.ID))
	require.Contains(t, trace, "after")
	require.Contains(t, trace, "Job succeeded")
	require.Len(t, f.Runners()[0].Systems, 1)
	require.Contains(t, p.output(), `"job-status":"success"`)
}

func TestConformanceExitCode(t *testing.T) {
	t.Parallel()
	f := start(t)
	job := f.push(noGit + "bad:\n  script: [exit 3]\n")[0]
	f.runSingle(f.runner(), 20).wait(f.ctx)
	done, ok := f.Job(job.ID)
	require.True(t, ok)
	require.Equal(t, gitlabtest.StatusFailed, done.Status)
	require.Equal(t, "script_failure", done.FailureReason)
	require.NotNil(t, done.ExitCode)
	require.Equal(t, 3, *done.ExitCode)
	require.Contains(t, f.Trace(job.ID), "exit status 3")
}

func TestConformanceCancelWhileRunning(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gitlabtest.Config) { c.TraceUpdateInterval = time.Second })
	job := f.push(noGit + "long:\n  script: [echo started, 'for i in $(seq 60); do echo tick $i; sleep 1; done']\n  after_script: [echo cleaned]\n")[0]
	p := f.runSingle(f.runner(), 20)
	require.NoError(t, f.WaitTrace(f.ctx, job.ID, "tick 1"))
	require.NoError(t, f.CancelJob(job.ID))
	now, _ := f.Job(job.ID)
	require.Equal(t, gitlabtest.StatusCanceling, now.Status)
	done, err := f.WaitJob(f.ctx, job.ID)
	require.NoError(t, err)
	require.Equal(t, gitlabtest.StatusCanceled, done.Status)
	require.Contains(t, f.Trace(job.ID), "cleaned")
	p.wait(f.ctx)
}

// A job that says nothing hears of its end by the PUT that the runner makes after 30 silent seconds.
func TestConformanceCancelOfASilentJob(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gitlabtest.Config) { c.TraceUpdateInterval = time.Second })
	job := f.push(noGit + "long:\n  script: [echo started, sleep 60]\n  after_script: [echo cleaned]\n")[0]
	p := f.runSingle(f.runner(), 20)
	require.NoError(t, f.WaitTrace(f.ctx, job.ID, "started"))
	require.NoError(t, f.CancelJob(job.ID))
	now, _ := f.Job(job.ID)
	require.Equal(t, gitlabtest.StatusCanceling, now.Status)
	done, err := f.WaitJob(f.ctx, job.ID)
	require.NoError(t, err)
	require.Equal(t, gitlabtest.StatusCanceled, done.Status)
	require.Contains(t, f.Trace(job.ID), "cleaned")
	p.wait(f.ctx)
}

func TestConformanceForcedCancel(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gitlabtest.Config) { c.TraceUpdateInterval = time.Second })
	job := f.push(noGit + "long:\n  script: ['for i in $(seq 60); do echo tick $i; sleep 1; done']\n")[0]
	p := f.runSingle(f.runner(), 20)
	require.NoError(t, f.WaitTrace(f.ctx, job.ID, "tick 1"))
	a := f.api("POST", fmt.Sprintf("/projects/%d/jobs/%d/cancel?force=true", f.project.ID, job.ID), nil)
	require.Equal(t, http.StatusCreated, a.status)
	p.wait(f.ctx)
	done, _ := f.Job(job.ID)
	require.Equal(t, gitlabtest.StatusCanceled, done.Status)
	require.Positive(t, done.Rejected)
}

func TestConformanceArtifacts(t *testing.T) {
	t.Parallel()
	f := start(t)
	jobs := f.push(noGit + `
stages: [build, test]
make:
  stage: build
  script: [mkdir -p out, echo precious > out/file.txt]
  artifacts: {paths: [out/], expire_in: 1 hour}
other:
  stage: build
  script: ['true']
use:
  script: [cat out/file.txt]
  dependencies: [make]
`)
	r := f.runner()
	for range jobs {
		f.runSingle(r, 20).wait(f.ctx)
	}
	p, err := f.WaitPipeline(f.ctx, jobs[0].PipelineID)
	require.NoError(t, err)
	require.Equal(t, gitlabtest.StatusSuccess, p.Status)
	made, _ := f.Job(jobs[0].ID)
	require.Len(t, made.Artifacts, 1)
	require.Equal(t, "archive", made.Artifacts[0].Type)
	require.Equal(t, "1 hour", made.Artifacts[0].ExpireIn)
	require.Positive(t, made.Artifacts[0].Size)
	require.Contains(t, f.Trace(jobs[2].ID), "precious")
	require.Contains(t, f.Trace(jobs[2].ID), "Downloading artifacts")
}

func TestConformanceMasking(t *testing.T) {
	t.Parallel()
	f := start(t)
	require.NoError(t, f.SetVariable(f.project.ID, gitlabtest.Variable{Key: "PASSWORD", Value: "opensesame42", Masked: true}))
	job := f.push(noGit + "leak:\n  script: ['echo \"it is $PASSWORD here\"', 'echo token=$CI_JOB_TOKEN']\n")[0]
	f.runSingle(f.runner(), 20).wait(f.ctx)
	trace := f.Trace(job.ID)
	require.Contains(t, trace, "it is [MASKED] here")
	require.NotContains(t, trace, "opensesame42")
	require.Contains(t, trace, "token=[MASKED]")
}

func TestConformanceGitClone(t *testing.T) {
	t.Parallel()
	f := start(t)
	job := f.push("clone:\n  script: [cat README.md, git log --oneline, 'echo \"sha=$(git rev-parse HEAD)\"']\n")[0]
	// The branch moves on; the job still gets its own commit.
	_, err := f.Push(f.project.ID, map[string]string{"README.md": "newer\n", ".gitlab-ci.yml": "later:\n  tags: [nobody]\n  script: 'true'\n"})
	require.NoError(t, err)
	f.runSingle(f.runner(), 20).wait(f.ctx)
	done, _ := f.Job(job.ID)
	trace := f.Trace(job.ID)
	require.Equal(t, gitlabtest.StatusSuccess, done.Status, trace)
	require.Contains(t, trace, "hello from the repository")
	require.Contains(t, trace, "sha="+job.SHA)
}

func TestConformanceJobTokenDiesWithTheJob(t *testing.T) {
	t.Parallel()
	f := start(t)
	job := f.push(noGit + "tell:\n  script: ['echo \"$CI_REPOSITORY_URL\" > url', 'git ls-remote \"$CI_REPOSITORY_URL\" HEAD']\n  artifacts: {paths: [url]}\n")[0]
	f.runSingle(f.runner(), 20).wait(f.ctx)
	done, _ := f.Job(job.ID)
	require.Equal(t, gitlabtest.StatusSuccess, done.Status, f.Trace(job.ID))
	a := f.do("GET", "/group/app.git/info/refs?service=git-upload-pack", nil, "Authorization", basic("gitlab-ci-token", f.JobToken(job.ID)))
	require.Equal(t, http.StatusUnauthorized, a.status)
	a = f.do("PUT", "/api/v4/jobs/"+itoa(job.ID), object{"token": f.JobToken(job.ID), "state": "success"})
	require.Equal(t, http.StatusForbidden, a.status)
	require.Equal(t, "success", a.header.Get("Job-Status"))
	a = f.do("GET", "/api/v4/jobs/"+itoa(job.ID)+"/artifacts", nil, "JOB-TOKEN", f.JobToken(job.ID))
	require.Equal(t, http.StatusForbidden, a.status)
}

func TestConformanceDeletedRunner(t *testing.T) {
	t.Parallel()
	f := start(t)
	r := f.runner()
	f.DeleteRunner(r.ID)
	f.push(noGit + "any:\n  script: 'true'\n")
	p := f.runSingle(r, 5)
	// It sleeps 300 s after a 403; what it says is all there is to see.
	require.Eventually(t, func() bool { return strings.Contains(p.output(), "not healthy") }, time.Minute, 20*time.Millisecond)
	require.Contains(t, p.output(), "403")
	require.Equal(t, 1, f.Requests()["POST /api/v4/jobs/request"])
}

// A runner that is deleted while its job runs does not disturb the job.
func TestConformanceRunnerDeletedMidJob(t *testing.T) {
	t.Parallel()
	f := start(t)
	job := f.push(noGit + "busy:\n  script: [echo begun, sleep 4, echo over]\n")[0]
	r := f.runner()
	p := f.runSingle(r, 20)
	require.NoError(t, f.WaitTrace(f.ctx, job.ID, "begun"))
	f.DeleteRunner(r.ID)
	p.wait(f.ctx)
	done, _ := f.Job(job.ID)
	require.Equal(t, gitlabtest.StatusSuccess, done.Status, f.Trace(job.ID))
}

// Nothing binds a job to the runner that was made for it.
func TestConformanceSwap(t *testing.T) {
	t.Parallel()
	f := start(t)
	jobs := f.push(noGit + ".j: &j\n  tags: [small]\n  script: [echo hi]\nfirst: *j\nsecond: *j\n")
	forFirst, forSecond := f.runner("small", "x86"), f.runner("small", "fast")
	f.runSingle(forSecond, 20).wait(f.ctx)
	f.runSingle(forFirst, 20).wait(f.ctx)
	first, _ := f.Job(jobs[0].ID)
	second, _ := f.Job(jobs[1].ID)
	require.Equal(t, forSecond.ID, first.RunnerID)
	require.Equal(t, forFirst.ID, second.RunnerID)
	require.Equal(t, gitlabtest.StatusSuccess, first.Status)
	require.Equal(t, gitlabtest.StatusSuccess, second.Status)
}

// The server lost part of the log: the runner resumes where a 416 tells it to.
func TestConformanceTraceResumed(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gitlabtest.Config) { c.TraceUpdateInterval = time.Second })
	job := f.push(noGit + "talk:\n  script: [echo first part, sleep 4, echo second part]\n")[0]
	p := f.runSingle(f.runner(), 20)
	require.NoError(t, f.WaitTrace(f.ctx, job.ID, "first part"))
	f.TruncateTrace(job.ID, 10)
	p.wait(f.ctx)
	done, _ := f.Job(job.ID)
	require.Equal(t, gitlabtest.StatusSuccess, done.Status)
	require.Positive(t, done.Rejected)
	require.Contains(t, f.Trace(job.ID), "first part")
	require.Contains(t, f.Trace(job.ID), "second part")
}

// The log is lost between its last piece and the final PUT: the checksum tells, the runner is
// answered 412 and sends all of it again.
func TestConformanceTraceSentAgain(t *testing.T) {
	t.Parallel()
	f := start(t)
	job := f.push(noGit + "talk:\n  script: [echo all of it]\n")[0]
	_, err := f.AddFault(gitlabtest.Fault{
		Action: gitlabtest.FaultDelay, Delay: 2 * time.Second, Method: "PUT", Path: "/api/v4/jobs/*", Skip: 1, Count: 1,
	})
	require.NoError(t, err)
	p := f.runSingle(f.runner(), 20)
	require.NoError(t, f.WaitTrace(f.ctx, job.ID, "Job succeeded"))
	f.TruncateTrace(job.ID, 10)
	p.wait(f.ctx)
	done, _ := f.Job(job.ID)
	require.Equal(t, gitlabtest.StatusSuccess, done.Status)
	require.Equal(t, map[string]int{"running": 1, "success": 2}, done.Updates)
	require.Equal(t, 1, done.Rejected)
	require.Equal(t, 1, strings.Count(f.Trace(job.ID), "all of it\n"), f.Trace(job.ID))
}

func TestConformanceAcceptedLater(t *testing.T) {
	t.Parallel()
	f := start(t)
	job := f.push(noGit + "slow:\n  script: [echo x]\n")[0]
	_, err := f.AddFault(gitlabtest.Fault{
		Action: gitlabtest.FaultStatus, Status: http.StatusAccepted, Method: "PUT", Path: "/api/v4/jobs/*", Skip: 1, Count: 1,
		Header: map[string]string{"X-GitLab-Trace-Update-Interval": "1"},
	})
	require.NoError(t, err)
	f.runSingle(f.runner(), 20).wait(f.ctx)
	done, _ := f.Job(job.ID)
	require.Equal(t, gitlabtest.StatusSuccess, done.Status)
	require.Equal(t, 3, f.Requests()["PUT /api/v4/jobs/{job}"])
}

func TestConformanceTimeout(t *testing.T) {
	t.Parallel()
	f := start(t)
	job := f.push(noGit + "forever:\n  timeout: 2 seconds\n  script: [sleep 60]\n")[0]
	f.runSingle(f.runner(), 20).wait(f.ctx)
	done, _ := f.Job(job.ID)
	require.Equal(t, gitlabtest.StatusFailed, done.Status)
	require.Equal(t, "job_execution_timeout", done.FailureReason)
	require.Equal(t, 2*time.Second, done.Timeout)
}

// Interrupted answers are asked for again, and nothing is run or written twice.
func TestConformanceThroughFaults(t *testing.T) {
	t.Parallel()
	f := start(t)
	job := f.push(noGit + "tough:\n  script: [echo survived]\n")[0]
	for _, fault := range []gitlabtest.Fault{
		{Action: gitlabtest.FaultStatus, Status: 503, Method: "POST", Path: "/api/v4/jobs/request", Count: 2},
		{Action: gitlabtest.FaultResetAfter, Method: "PATCH", Path: "/api/v4/jobs/*/trace", Count: 1},
		{Action: gitlabtest.FaultStatus, Status: 502, Method: "PUT", Path: "/api/v4/jobs/*", Skip: 1, Count: 1},
	} {
		_, err := f.AddFault(fault)
		require.NoError(t, err)
	}
	f.runSingle(f.runner(), 20).wait(f.ctx)
	done, _ := f.Job(job.ID)
	require.Equal(t, gitlabtest.StatusSuccess, done.Status)
	require.Len(t, done.Handouts, 1)
	require.Equal(t, 1, strings.Count(f.Trace(job.ID), "survived\n"), f.Trace(job.ID))
}
