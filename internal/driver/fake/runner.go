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

// RunnerGuest returns a guest that acts as `gitlab-runner run-single --max-builds 1` does, in the smallest form: it asks
// GitLab for a job, writes one line of log, and says that it went well after jobTime. The protocol is that of
// https://docs.gitlab.com/ee/api/runners.html and lib/api/ci/runner.rb in GitLab.
func RunnerGuest(client *http.Client, poll, jobTime time.Duration) GuestFunc {
	return func(ctx context.Context, spec firerunner.MicroVMSpec, report func(firerunner.GuestReport), orders <-chan firerunner.GuestOrder) error {
		r := runner{client: client, base: strings.TrimSuffix(spec.Start.GitLabURL, "/") + "/api/v4/", spec: spec, report: report}
		report(firerunner.GuestReport{Kind: firerunner.ReportHello})
		report(firerunner.GuestReport{Kind: firerunner.ReportStarted})
		err := r.work(ctx, orders, poll, jobTime)
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
	client *http.Client
	base   string
	spec   firerunner.MicroVMSpec
	report func(firerunner.GuestReport)
}

// job is what is needed of GitLab's answer to a job request.
type job struct {
	ID    int64  `json:"id"`
	Token string `json:"token"`
}

func (r *runner) work(ctx context.Context, orders <-chan firerunner.GuestOrder, poll, jobTime time.Duration) error {
	j, err := r.take(ctx, orders, poll)
	if err != nil {
		return err
	}
	r.report(firerunner.GuestReport{Kind: firerunner.ReportTookJob, JobID: j.ID, JobKey: r.key(j)})
	done := firerunner.GuestReport{Kind: firerunner.ReportJobDone, JobID: j.ID, Success: true}
	if stopped, err := r.busy(ctx, orders, jobTime); err != nil {
		return err
	} else if stopped {
		done.Success, done.Failure = false, "runner_interrupted"
	}
	if err := r.finish(ctx, j, done); err != nil {
		return err
	}
	r.report(done)
	return nil
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
func (r *runner) take(ctx context.Context, orders <-chan firerunner.GuestOrder, poll time.Duration) (job, error) {
	var giveUp <-chan time.Time
	if wait := r.spec.Start.WaitTimeout; wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		giveUp = timer.C
	}
	tick := time.NewTicker(poll)
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
func (r *runner) busy(ctx context.Context, orders <-chan firerunner.GuestOrder, jobTime time.Duration) (stopped bool, err error) {
	timer := time.NewTimer(jobTime)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
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
func (r *runner) finish(ctx context.Context, j job, done firerunner.GuestReport) error {
	path := fmt.Sprintf("jobs/%d", j.ID)
	line := []byte("a fake microVM ran this job\n")
	// The trace is appended by range, the last byte included; 202 is accepted.
	status, err := r.patch(ctx, path+"/trace", j.Token, line)
	if err == nil && status != http.StatusAccepted {
		err = fmt.Errorf("status %d", status)
	}
	if err != nil {
		return fmt.Errorf("writing the log: %w", err)
	}
	state := map[string]any{"token": j.Token, "state": "success"}
	if !done.Success {
		state["state"], state["failure_reason"] = "failed", done.Failure
	}
	body, _ := json.Marshal(state)
	status, err = r.call(ctx, http.MethodPut, path, "JOB-TOKEN", j.Token, "application/json", body, nil)
	if err == nil && status != http.StatusOK && status != http.StatusAccepted {
		err = fmt.Errorf("status %d", status)
	}
	if err != nil {
		return fmt.Errorf("telling the result: %w", err)
	}
	return nil
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
	res, err := r.client.Do(req)
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
