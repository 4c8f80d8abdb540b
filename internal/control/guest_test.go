package control_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/firerunner/firerunner"
)

// guest is what runs in a microVM of these tests: it speaks the runner protocol with the emulator and does what a
// script says. It never polls: the emulator holds its request until there is a job.
type guest struct {
	ctx   context.Context
	spec  firerunner.MicroVMSpec
	say   func(firerunner.GuestReport)
	http  *http.Client
	house *house

	last    job  // the last that it was given
	silent  bool // it hands out no job keys, as older agents
	mu      sync.Mutex
	orders  []firerunner.GuestOrder
	ordered chan struct{} // closed at the first order
}

// script is what a guest does. It ends with g.ctx at the latest.
type script func(g *guest) error

// work is what a guest does that has nothing special to do: one job, if it gets one.
func work(g *guest) error {
	g.hello()
	j, err := g.take()
	if err != nil {
		return g.exit(0, err.Error())
	}
	g.took(j.ID)
	return g.finish(j)
}

// workAfter is work whose job ends only after a signal.
func workAfter(signal <-chan struct{}) script {
	return func(g *guest) error {
		g.hello()
		j, err := g.take()
		if err != nil {
			return g.exit(0, err.Error())
		}
		g.took(j.ID)
		if !g.wait(signal) {
			_ = g.fail(j, "runner_interrupted")
			g.report(firerunner.ReportJobDone, j.ID, false)
			return g.exit(0, "stopped")
		}
		return g.finish(j)
	}
}

// finish runs the job to its good end.
func (g *guest) finish(j job) error {
	if err := g.succeed(j); err != nil {
		return g.exit(1, err.Error())
	}
	g.report(firerunner.ReportJobDone, j.ID, true)
	return g.exit(0, "")
}

func (g *guest) hello() {
	g.report(firerunner.ReportHello, 0, false)
	g.report(firerunner.ReportStarted, 0, false)
}

func (g *guest) report(kind firerunner.ReportKind, jobID int64, success bool) {
	g.say(firerunner.GuestReport{Kind: kind, JobID: jobID, Success: success})
}

// took says so, and hands out the key of the job that it was given.
func (g *guest) took(jobID int64) {
	r := firerunner.GuestReport{Kind: firerunner.ReportTookJob, JobID: jobID}
	if start := g.spec.Start; jobID == g.last.ID && start.SealTo != "" && !g.silent {
		key, err := firerunner.SealJobKey(start.SealTo, start.RunnerID, jobID, firerunner.Secret(g.last.Token))
		if err != nil {
			panic(err)
		}
		r.JobKey = key
	}
	g.say(r)
}

func (g *guest) exit(status int, message string) error {
	g.say(firerunner.GuestReport{Kind: firerunner.ReportRunnerExited, ExitCode: status, Message: message})
	return g.ctx.Err()
}

// wait waits for a signal of the test; false if the microVM ended first, or was told to end.
func (g *guest) wait(signal <-chan struct{}) bool {
	select {
	case <-signal:
		return true
	case <-g.ordered:
	case <-g.ctx.Done():
	}
	return false
}

// listen takes orders until the microVM ends.
func (g *guest) listen(orders <-chan firerunner.GuestOrder, done <-chan struct{}) {
	for {
		select {
		case o := <-orders:
			g.mu.Lock()
			if len(g.orders) == 0 {
				close(g.ordered)
			}
			g.orders = append(g.orders, o)
			g.mu.Unlock()
		case <-done:
			return
		}
	}
}

// job is what is needed of GitLab's answer to a job request.
type job struct {
	ID    int64  `json:"id"`
	Token string `json:"token"`
}

var errOrdered = errors.New("ordered to end")

// take asks for a job until there is one.
func (g *guest) take() (job, error) {
	ctx, cancel := context.WithCancel(g.ctx)
	defer cancel()
	over := make(chan struct{})
	defer close(over)
	go func() { // ended by over, which is closed before take returns
		select {
		case <-g.ordered:
			cancel()
		case <-over:
		}
	}()
	for last := ""; ; {
		var j job
		res, err := g.call(ctx, http.MethodPost, "/jobs/request", map[string]any{"token": g.spec.Start.Token.Reveal(), "last_update": last}, &j)
		switch {
		case g.ctx.Err() != nil:
			return j, g.ctx.Err()
		case ctx.Err() != nil:
			return j, errOrdered
		case err != nil:
			return j, err
		case res.StatusCode == http.StatusCreated:
			g.last = j
			return j, nil
		case res.StatusCode != http.StatusNoContent:
			return j, fmt.Errorf("asking for a job: status %d", res.StatusCode)
		}
		last = res.Header.Get("X-GitLab-Last-Update")
	}
}

// succeed writes a line of log and tells GitLab that the job went well.
func (g *guest) succeed(j job) error { return g.tell(j, map[string]any{"state": "success"}) }

func (g *guest) fail(j job, reason string) error {
	return g.tell(j, map[string]any{"state": "failed", "failure_reason": reason})
}

func (g *guest) tell(j job, body map[string]any) error {
	body["token"] = j.Token
	res, err := g.call(g.ctx, http.MethodPut, fmt.Sprintf("/jobs/%d", j.ID), body, nil)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("telling job %d: status %d", j.ID, res.StatusCode)
	}
	return err
}

func (g *guest) call(ctx context.Context, method, path string, body map[string]any, into any) (*http.Response, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, g.spec.Start.GitLabURL+"/api/v4"+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := g.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err == nil && into != nil && res.StatusCode == http.StatusCreated {
		err = json.Unmarshal(answer, into)
	}
	return res, err
}
