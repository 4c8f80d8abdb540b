package fake

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

// errNoJob ends a guest that was ordered to finish, or waited too long, before it had a job.
var errNoJob = errors.New("no job")

// Runner is what its guests do as `gitlab-runner run-single --max-builds 1` does, in the smallest form: they ask GitLab for
// a job, take the job's time, write its log and say how it went. The protocol is that of
// https://docs.gitlab.com/ee/api/runners.html and lib/api/ci/runner.rb in GitLab.
type Runner struct {
	Client *http.Client
	Poll   time.Duration // how often GitLab is asked for a job
	// Work says how a job goes; nil = it goes well, at once.
	Work func(Task) Work
	// Again is the pause after which the log and the result are told again that GitLab answered with 5xx or not at all, as
	// gitlab-runner does; 0 = they are told once.
	Again time.Duration
}

// Task is what a guest was given.
type Task struct {
	VM     string
	Job    int64
	Script []string
}

// Work is how a job goes.
type Work struct {
	Time    time.Duration
	Until   <-chan struct{} // closed: it is over, however little of Time has passed; nil: Time alone counts
	Failure string          // a failure_reason; empty = it goes well
	Log     string          // empty = one line
}

// RunnerGuest returns a guest whose job goes well after jobTime.
func RunnerGuest(client *http.Client, poll, jobTime time.Duration) GuestFunc {
	return Runner{Client: client, Poll: poll, Work: func(Task) Work { return Work{Time: jobTime} }}.Guest()
}

// Guest returns the guest.
func (c Runner) Guest() GuestFunc {
	return func(ctx context.Context, spec firerunner.MicroVMSpec, report func(firerunner.GuestReport), orders <-chan firerunner.GuestOrder) error {
		r := runner{Runner: c, base: strings.TrimSuffix(spec.Start.GitLabURL, "/") + "/api/v4/", spec: spec, report: report}
		report(firerunner.GuestReport{Kind: firerunner.ReportHello})
		report(firerunner.GuestReport{Kind: firerunner.ReportStarted})
		err := r.work(ctx, orders)
		exited := firerunner.GuestReport{Kind: firerunner.ReportRunnerExited}
		if errors.Is(err, errNoJob) {
			exited.Message = err.Error() // gitlab-runner exits with 0 then, too
		} else if err != nil {
			exited.Message, exited.ExitCode = err.Error(), 1
		}
		report(exited)
		return ctx.Err()
	}
}

// runner is one fake gitlab-runner.
type runner struct {
	Runner
	base   string
	spec   firerunner.MicroVMSpec
	report func(firerunner.GuestReport)
}

// job is what is needed of GitLab's answer to a job request.
type job struct {
	ID    int64  `json:"id"`
	Token string `json:"token"`
	Steps []struct {
		Script []string `json:"script"`
	} `json:"steps"`
}

func (r *runner) work(ctx context.Context, orders <-chan firerunner.GuestOrder) error {
	j, err := r.take(ctx, orders)
	if err != nil {
		return err
	}
	r.report(firerunner.GuestReport{Kind: firerunner.ReportTookJob, JobID: j.ID, JobKey: r.key(j)})
	work := r.how(j)
	done := firerunner.GuestReport{Kind: firerunner.ReportJobDone, JobID: j.ID, Success: work.Failure == "", Failure: work.Failure}
	if stopped, err := r.busy(ctx, orders, work); err != nil {
		return err
	} else if stopped {
		done.Success, done.Failure = false, "runner_interrupted"
	}
	if err := r.finish(ctx, j, work.Log, done); err != nil {
		return err
	}
	r.report(done)
	return nil
}

// how asks how a job goes.
func (r *runner) how(j job) (w Work) {
	if r.Work != nil {
		task := Task{VM: r.spec.ID, Job: j.ID}
		if len(j.Steps) > 0 {
			task.Script = j.Steps[0].Script
		}
		w = r.Work(task)
	}
	if w.Log == "" {
		w.Log = "a fake microVM ran this job\n"
	}
	return w
}

// key seals the job's token as a guest agent does; empty where the host asks for none.
func (r *runner) key(j job) firerunner.JobKey {
	start := r.spec.Start
	if start.SealTo == "" {
		return ""
	}
	key, err := firerunner.SealJobKey(start.SealTo, start.RunnerID, j.ID, firerunner.Secret(j.Token))
	if err != nil {
		r.report(firerunner.GuestReport{Kind: firerunner.ReportNotice, Message: err.Error()})
	}
	return key
}

// take asks for a job until there is one.
func (r *runner) take(ctx context.Context, orders <-chan firerunner.GuestOrder) (job, error) {
	var giveUp <-chan time.Time
	if wait := r.spec.Start.WaitTimeout; wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		giveUp = timer.C
	}
	tick := time.NewTicker(r.Poll)
	defer tick.Stop()
	for {
		var j job
		// jobs/request: 201 is a job, 204 is none, 403 is a token that GitLab does not know.
		status, err := r.call(ctx, http.MethodPost, "jobs/request", "RUNNER-TOKEN", r.spec.Start.Token.Reveal(), "application/json", r.request(), &j)
		switch {
		case ctx.Err() != nil:
			return j, ctx.Err()
		case err == nil && status == http.StatusCreated:
			return j, nil
		case status == http.StatusForbidden:
			return j, errors.New("GitLab does not know the runner's token")
		}
		select {
		case <-tick.C: // whatever else went wrong may be better then
		case <-giveUp:
			return j, errNoJob
		case <-orders:
			return j, errNoJob
		case <-ctx.Done():
			return j, ctx.Err()
		}
	}
}

func (r *runner) request() []byte {
	body, _ := json.Marshal(map[string]any{
		"token": r.spec.Start.Token.Reveal(), "system_id": "r_" + r.spec.ID,
		"info": map[string]any{"name": "gitlab-runner", "version": "fake", "executor": "shell", "platform": "linux", "architecture": "amd64"},
	})
	return body
}

// busy is the job's time. An order to finish changes nothing; an order to stop ends it.
func (r *runner) busy(ctx context.Context, orders <-chan firerunner.GuestOrder, work Work) (stopped bool, err error) {
	timer := time.NewTimer(work.Time)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return false, nil
		case <-work.Until:
			return false, nil
		case order := <-orders:
			if order == firerunner.OrderStop {
				return true, nil
			}
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// finish writes the log and the result.
func (r *runner) finish(ctx context.Context, j job, log string, done firerunner.GuestReport) error {
	path := fmt.Sprintf("jobs/%d", j.ID)
	// The trace is appended by range, the last byte included; 202 is accepted.
	err := r.tell(ctx, func() (int, error) { return r.patch(ctx, path+"/trace", j.Token, []byte(log)) })
	if err != nil {
		return fmt.Errorf("writing the log: %w", err)
	}
	state := map[string]any{"token": j.Token, "state": "success"}
	if !done.Success {
		state["state"], state["failure_reason"] = "failed", done.Failure
	}
	body, _ := json.Marshal(state)
	err = r.tell(ctx, func() (int, error) {
		return r.call(ctx, http.MethodPut, path, "JOB-TOKEN", j.Token, "application/json", body, nil)
	})
	if err != nil {
		return fmt.Errorf("telling the result: %w", err)
	}
	return nil
}

// tell makes a call until GitLab has understood it or refuses it.
func (r *runner) tell(ctx context.Context, call func() (int, error)) error {
	for {
		status, err := call()
		switch {
		case err == nil && (status == http.StatusOK || status == http.StatusAccepted):
			return nil
		case err == nil:
			err = fmt.Errorf("status %d", status)
		}
		if r.Again == 0 || ctx.Err() != nil || status != 0 && status < http.StatusInternalServerError {
			return err
		}
		select {
		case <-time.After(r.Again):
		case <-ctx.Done():
			return err
		}
	}
}

func (r *runner) patch(ctx context.Context, path, token string, log []byte) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPatch, r.base+path, bytes.NewReader(log))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "text/plain")
	req.Header.Set("Content-Range", fmt.Sprintf("0-%d", len(log)-1))
	req.Header.Set("JOB-TOKEN", token)
	return r.send(req, nil)
}

func (r *runner) call(ctx context.Context, method, path, header, token, kind string, body []byte, into any) (int, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.base+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("Accept", "application/json")
	req.Header.Set(header, token)
	return r.send(req, into)
}

func (r *runner) send(req *http.Request, into any) (int, error) {
	req.Header.Set("User-Agent", "gitlab-runner fake (firerunner)")
	res, err := r.Client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err == nil && into != nil && res.StatusCode == http.StatusCreated {
		err = json.Unmarshal(body, into)
	}
	return res.StatusCode, err
}
