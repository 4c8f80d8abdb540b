package provision

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

// watching is the state of one watch. All of it belongs to the goroutine of watch, but for what a follower is given.
type watching struct {
	*guest
	read    int64 // bytes of the log that have been understood, up to the end of a line
	working bool  // a job runs
	asked   bool  // gitlab-runner was told to end
	kill    <-chan time.Time

	complaint  string // the last one
	complaints int
}

// mostComplaints is how many of gitlab-runner's warnings are told.
const mostComplaints = 20

// watch reads gitlab-runner's log until it has ended, and says how it did. Where the connection breaks, it is made again
// and the log is read on from the byte where it ended.
func (w *watching) watch(ctx context.Context) error {
	for {
		err := w.connection(ctx)
		switch {
		case err == nil:
			return w.ended(ctx)
		case ctx.Err() != nil:
			return w.failed("follow the log", context.Cause(ctx))
		case !errors.Is(err, errBroken):
			return w.failed("follow the log", err).WithHint("the image needs tail with --pid (package coreutils)")
		}
		w.Logger.Warn("the connection to a guest broke and is made again", "vm", w.ID, "error", err)
		if err := w.connect(ctx); err != nil {
			return err
		}
	}
}

// connection follows the log over the connection that there is, and obeys orders meanwhile.
func (w *watching) connection(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	f := follower{client: w.client, root: w.root, from: w.read, parse: w.Parse, found: make(chan found)}
	done := make(chan error, 1)
	var following sync.WaitGroup
	following.Go(func() { done <- f.follow(ctx) })
	defer following.Wait()
	defer cancel()
	for {
		select {
		case what := <-f.found:
			w.took(what)
		case err := <-done:
			return err
		case order, open := <-w.Orders:
			if !open {
				w.Orders = nil
				continue
			}
			if err := w.obey(ctx, order); err != nil {
				w.Logger.Warn("an order did not reach gitlab-runner", "vm", w.ID, "order", order, "error", err)
			}
		case <-w.kill:
			w.kill = nil
			if err := w.signal(ctx, "KILL"); err != nil {
				w.Logger.Warn("gitlab-runner could not be killed", "vm", w.ID, "error", err)
			}
		}
	}
}

// took reports what a line of the log means.
func (w *watching) took(what found) {
	w.read = what.upTo
	switch what.report.Kind {
	case "":
		return
	case firerunner.ReportTookJob:
		w.working = true
	case firerunner.ReportJobDone:
		w.working = false
	case firerunner.ReportNotice, firerunner.ReportError:
		r := &what.report
		if r.Message = clean(r.Message); r.Message == w.complaint || w.complaints >= mostComplaints {
			return
		}
		w.complaint = r.Message
		w.complaints++
	}
	w.Report(what.report)
}

// obey passes an order on: gitlab-runner ends after its job on SIGQUIT, and ends it on SIGTERM
// (https://docs.gitlab.com/runner/commands/#signals). A second SIGTERM would leave the result unsent.
func (w *watching) obey(ctx context.Context, order firerunner.GuestOrder) error {
	switch {
	case order == firerunner.OrderFinish && !w.asked:
		return w.signal(ctx, "QUIT")
	case order == firerunner.OrderStop && !w.asked:
		w.asked = true
		grace := w.Timeouts.Idle
		if w.working {
			grace = w.Timeouts.Job
		}
		w.kill = time.After(grace)
		return w.signal(ctx, "TERM")
	}
	return nil
}

func (w *watching) signal(ctx context.Context, name string) error {
	_, err := w.step(ctx, "signal gitlab-runner", "it may have ended in this moment", w.root+"kill -"+name+" $(cat "+pidFile+")", nil)
	return err
}

// ended reads how gitlab-runner ended.
func (w *watching) ended(ctx context.Context) error {
	const step = "read how it ended"
	out, err := w.step(ctx, step, "was the keeper killed?", w.root+"cat "+exitFile, nil)
	if err != nil {
		return err
	}
	status, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		return w.failed(step, errors.New("that is not a number"))
	}
	message := ""
	if w.asked {
		message = "stopped by order"
	}
	w.Report(firerunner.GuestReport{Kind: firerunner.ReportRunnerExited, ExitCode: status, Message: message})
	return nil
}

// turnOff ends the microVM. It may fail: then its deadline, or its driver, ends it.
func (g *guest) turnOff(ctx context.Context) {
	if g.client == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.Timeouts.Step)
	defer cancel()
	// In the background, so that the answer still comes. Not power off: Firecracker ends at a reset only, and qemu as ours
	// is started at either.
	_, err := g.execute(ctx, g.asRoot("sync\n(sleep 0.2; systemctl reboot --force --force || reboot -f) >/dev/null 2>&1 </dev/null &"), nil)
	if err != nil {
		g.Logger.Warn("a guest could not be turned off", "vm", g.ID, "error", err)
	}
}
