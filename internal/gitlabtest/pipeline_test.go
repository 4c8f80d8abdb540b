package gitlabtest_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// play hands out and ends jobs until none is left; those in bad fail with that exit code.
func (f *fixture) play(bad map[string]int) {
	f.t.Helper()
	r := f.CreateRunner(gitlabtest.Runner{Type: "instance_type", RunUntagged: true})
	for {
		a := f.request(r.Token, "")
		if a.status == http.StatusNoContent {
			return
		}
		var j taken
		a.decode(f.t, &j)
		got, _ := f.Job(j.ID)
		body := object{"token": j.Token, "state": "success"}
		if code, fails := bad[got.Name]; fails {
			body = object{"token": j.Token, "state": "failed", "failure_reason": "script_failure", "exit_code": code}
		}
		require.Equal(f.t, http.StatusOK, f.do("PUT", "/api/v4/jobs/"+itoa(j.ID), body).status)
	}
}

// outcome is "name:status ..." of a pipeline's jobs, and the pipeline's status.
func (f *fixture) outcome(id int64) string {
	p, _ := f.Pipeline(id)
	var out []string
	for _, j := range p.JobIDs {
		job, _ := f.Job(j)
		out = append(out, job.Name+":"+string(job.Status))
	}
	return strings.Join(out, " ") + " = " + string(p.Status)
}

func TestPipelineOutcomes(t *testing.T) {
	t.Parallel()
	const stages = "stages: [one, two, three]\n"
	for name, c := range map[string]struct {
		ci   string
		bad  map[string]int
		want string
	}{
		"all good": {
			stages + "a: {stage: one, script: x}\nb: {stage: two, script: x}\n", nil,
			"a:success b:success = success",
		},
		"later skipped": {
			stages + "a: {stage: one, script: x}\nb: {stage: two, script: x}\nc: {stage: three, script: x}\n",
			map[string]int{"a": 1},
			"a:failed b:skipped c:skipped = failed",
		},
		"allowed to fail": {
			stages + "a: {stage: one, script: x, allow_failure: true}\nb: {stage: two, script: x}\n",
			map[string]int{"a": 1},
			"a:failed b:success = success",
		},
		"allowed exit code": {
			stages + "a: {stage: one, script: x, allow_failure: {exit_codes: 7}}\nb: {stage: two, script: x}\n",
			map[string]int{"a": 7},
			"a:failed b:success = success",
		},
		"other exit code": {
			stages + "a: {stage: one, script: x, allow_failure: {exit_codes: 7}}\nb: {stage: two, script: x}\n",
			map[string]int{"a": 8},
			"a:failed b:skipped = failed",
		},
		"on_failure and always": {
			stages + "a: {stage: one, script: x}\nb: {stage: two, script: x, when: on_failure}\nc: {stage: three, script: x, when: always}\n",
			map[string]int{"a": 1},
			"a:failed b:success c:success = failed",
		},
		"on_failure without one": {
			stages + "a: {stage: one, script: x}\nb: {stage: two, script: x, when: on_failure}\nc: {stage: three, script: x}\n", nil,
			"a:success b:skipped c:success = success",
		},
		"needs run past stages": {
			stages + "a: {stage: one, script: x}\nslow: {stage: one, script: x, tags: [nobody]}\nb: {stage: two, script: x, needs: [a]}\nc: {stage: three, script: x, needs: []}\n", nil,
			"a:success slow:pending b:success c:success = running",
		},
		"needs a failed one": {
			stages + "a: {stage: one, script: x}\nb: {stage: two, script: x, needs: [a]}\nc: {stage: three, script: x, needs: [b]}\n",
			map[string]int{"a": 1},
			"a:failed b:skipped c:skipped = failed",
		},
		"manual left out": {
			stages + "a: {stage: one, script: x, when: manual}\nb: {stage: two, script: x}\n", nil,
			"a:manual b:success = success",
		},
		"manual that blocks": {
			stages + "a: {stage: one, script: x, when: manual, allow_failure: false}\nb: {stage: two, script: x}\n", nil,
			"a:manual b:created = manual",
		},
		"parallel": {
			stages + "a: {stage: one, script: x, parallel: 2}\nb: {stage: two, script: x, needs: [a]}\n", nil,
			"a 1/2:success a 2/2:success b:success = success",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t)
			id := f.push(c.ci)[0].PipelineID
			f.play(c.bad)
			require.Equal(t, c.want, f.outcome(id))
		})
	}
}

func TestRetryRevivesSkipped(t *testing.T) {
	t.Parallel()
	f := start(t)
	jobs := f.push("stages: [one, two]\na: {stage: one, script: x}\nb: {stage: two, script: x}\n")
	f.play(map[string]int{"a": 1})
	again, err := f.RetryJob(jobs[0].ID)
	require.NoError(t, err)
	require.Equal(t, gitlabtest.StatusPending, again.Status)
	require.Equal(t, jobs[0].ID, again.RetryOf)
	require.Equal(t, 1, again.RetriesCount)
	require.Equal(t, "a:pending b:created = pending", f.outcome(jobs[0].PipelineID))
	f.play(nil)
	require.Equal(t, "a:success b:success = success", f.outcome(jobs[0].PipelineID))
	b, _ := f.Job(jobs[1].ID)
	require.Equal(t, gitlabtest.StatusSuccess, b.Status, "a skipped job keeps its id")
	_, err = f.RetryJob(jobs[0].ID)
	require.Error(t, err)
	old, _ := f.Job(jobs[0].ID)
	require.True(t, old.Retried)
}

func TestPlayManual(t *testing.T) {
	t.Parallel()
	f := start(t)
	job := f.push("a: {script: x, when: manual}\n")[0]
	path := fmt.Sprintf("/projects/%d/jobs/%d/play", f.project.ID, job.ID)
	require.Equal(t, http.StatusOK, f.api("POST", path, nil).status)
	f.play(nil)
	require.Equal(t, "a:success = success", f.outcome(job.PipelineID))
	require.Equal(t, http.StatusBadRequest, f.api("POST", path, nil).status)
}

func TestCancelPending(t *testing.T) {
	t.Parallel()
	f := start(t)
	jobs := f.push("stages: [one, two]\na: {stage: one, script: x}\nb: {stage: two, script: x}\n")
	require.NoError(t, f.CancelJob(jobs[0].ID))
	require.Equal(t, "a:canceled b:skipped = canceled", f.outcome(jobs[0].PipelineID))
	require.Error(t, f.CancelJob(1))
}

func TestPushErrors(t *testing.T) {
	t.Parallel()
	f := start(t)
	_, err := f.Push(f.project.ID, map[string]string{".gitlab-ci.yml": "a: {script: x, foo: 1}\n"})
	require.ErrorContains(t, err, `line 1: job "a": key "foo" is not supported`)
	p, err := f.Push(f.project.ID, map[string]string{"a.txt": "no ci file"})
	require.NoError(t, err)
	require.Nil(t, p)
	_, err = f.Push(f.project.ID, map[string]string{"../evil": "x"})
	require.Error(t, err)
	_, err = f.Push(4711, nil)
	require.Error(t, err)
	_, err = f.RunPipeline(f.project.ID, "no-branch")
	require.ErrorContains(t, err, "no branch")
	_, err = f.CreateProject("group/app", nil)
	require.ErrorContains(t, err, "taken")
	_, err = f.CreateProject("../up", nil)
	require.Error(t, err)
	require.Error(t, f.SetVariable(f.project.ID, gitlabtest.Variable{Key: "A", Value: "short", Masked: true}))
}

// However many runners ask at once, each job is handed out once.
func TestHandedOutOnce(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gitlabtest.Config) { c.LongPoll = -1 })
	jobs := f.push("a: {script: x, parallel: 60}\n")
	var (
		asking sync.WaitGroup
		mu     sync.Mutex
		seen   = map[int64]int{}
	)
	for range 8 {
		r := f.runner()
		asking.Go(func() {
			for {
				a, err := f.try("POST", "/api/v4/jobs/request", object{"token": r.Token})
				if err != nil || a.status != http.StatusCreated {
					return
				}
				var j taken
				a.decode(t, &j)
				mu.Lock()
				seen[j.ID]++
				mu.Unlock()
			}
		})
	}
	asking.Wait()
	require.Len(t, seen, len(jobs))
	for _, j := range f.Jobs(gitlabtest.JobFilter{}) {
		require.Equal(t, 1, seen[j.ID])
		require.Len(t, j.Handouts, 1)
	}
}

// Closing does not wait for long polls, slow answers or hooks.
func TestCloseEndsEverything(t *testing.T) {
	t.Parallel()
	f := start(t)
	r := f.runner()
	value := f.request(r.Token, "").header.Get("X-GitLab-Last-Update")
	_, err := f.AddFault(gitlabtest.Fault{Action: gitlabtest.FaultDelay, Delay: 1 << 40, Path: "/api/v4/version"})
	require.NoError(t, err)
	var asking sync.WaitGroup
	asking.Go(func() { _, _ = f.try("POST", "/api/v4/jobs/request", object{"token": r.Token, "last_update": value}) })
	asking.Go(func() { _, _ = f.try("GET", "/api/v4/version", nil, "PRIVATE-TOKEN", f.token) })
	silent, err := net.Listen("tcp", "127.0.0.1:0") // connects, and never answers
	require.NoError(t, err)
	defer silent.Close()
	_, err = f.AddHook(f.project.ID, gitlabtest.Hook{URL: "http://" + silent.Addr().String()})
	require.NoError(t, err)
	f.push(oneJob)
	require.NoError(t, f.Close())
	asking.Wait()
	_, err = f.WaitJob(f.ctx, 1)
	require.ErrorContains(t, err, "server closed")
}
