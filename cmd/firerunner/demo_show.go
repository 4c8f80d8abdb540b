package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// refresh is how often the live table is drawn again.
const refresh = 250 * time.Millisecond

// show draws the live table until the pipeline has ended, then each job's log and timeline.
func (d *demo) show(ctx context.Context) error {
	var failed error
	ended := make(chan struct{})
	waiting, stop := context.WithCancel(ctx)
	go func() {
		defer close(ended)
		_, failed = d.gitlab.WaitPipeline(waiting, d.pipeline)
	}()
	defer func() { stop(); <-ended }()
	tick := time.NewTicker(refresh)
	defer tick.Stop()
	screen := liveScreen{to: d.out(), live: isTerminal(d.out())}
	rejected := rejections{told: map[string]bool{}}
	for {
		screen.draw(d.table(ctx))
		if err := rejected.tell(ctx, d, &screen); err != nil {
			return err
		}
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
			return firerunner.Errorf(firerunner.Unavailable, "the demo was interrupted: %w", context.Cause(ctx))
		case <-ended:
			if failed != nil {
				return failed
			}
		}
		break
	}
	d.settle(ctx)
	screen.draw(d.table(ctx))
	for _, j := range d.jobs() {
		d.say("\n%s #%d\n", j.Name, j.ID)
		for _, line := range tail(d.gitlab.Trace(j.ID), 6) {
			d.say("  | %s\n", line)
		}
		d.say("  %s\n", d.timeline(ctx, j.ID))
	}
	return nil
}

// mostRejected is how many microVMs may fail before their jobs have begun. One may, on a busy machine, and another
// takes its place; with so many there is something wrong that waiting does not mend.
const mostRejected = 4

// rejections is which of them were told.
type rejections struct{ told map[string]bool }

// tell says of each microVM that failed before it had a job why it did; an error once there are too many.
func (x *rejections) tell(ctx context.Context, d *demo, screen *liveScreen) error {
	runners, err := d.daemon.store.Runners(ctx, firerunner.RunnerQuery{Outcome: firerunner.Rejected})
	if err != nil {
		return nil // the next look shows it
	}
	for _, r := range runners {
		if !x.told[r.ID] {
			x.told[r.ID] = true
			d.say("microVM %s failed and is replaced: %s\n", r.ID, r.Message)
			screen.below()
		}
		if len(x.told) >= mostRejected {
			return firerunner.Errorf(firerunner.Unavailable, "microVMs cannot be made here: %s", r.Message).
				WithHint("firerunner doctor looks for the cause; firerunner demo --log demo.log writes down more")
		}
	}
	return nil
}

func (d *demo) jobs() []gitlabtest.Job {
	return d.gitlab.Jobs(gitlabtest.JobFilter{PipelineID: d.pipeline})
}

// table is the state of every job, as GitLab and FireRunner see it.
func (d *demo) table(ctx context.Context) string {
	states := map[int64]firerunner.Runner{}
	queued := map[firerunner.TagSet][]firerunner.Runner{}
	runners, _ := d.daemon.store.Runners(ctx, firerunner.RunnerQuery{}) // an interrupted read draws an emptier table
	for _, r := range runners {
		if r.JobID != 0 {
			states[r.JobID] = r
		} else if r.Supply() {
			queued[r.Demand.Tags] = append(queued[r.Demand.Tags], r)
		}
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "JOB\tSTAGE\tTAGS\tGITLAB\tMICROVM\tHOST\tSTATE\tTIME")
	for _, j := range d.jobs() {
		vm, host, state := "-", "-", "-"
		r, ok := states[j.ID]
		if tags := firerunner.NewTagSet(j.Tags...); !ok && j.Status == gitlabtest.StatusPending && len(queued[tags]) > 0 {
			r, queued[tags], ok = queued[tags][0], queued[tags][1:], true // any of them may take it
		}
		if ok {
			vm, host, state = r.ID, cmp.Or(r.Host, "-"), r.State.String()
		}
		status := string(j.Status)
		if j.Status == gitlabtest.StatusFailed && j.AllowFailure {
			status += " (allowed)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", j.Name, j.Stage, strings.Join(j.Tags, ","), status, vm, host, state, elapsed(j))
	}
	_ = w.Flush()
	return b.String()
}

func elapsed(j gitlabtest.Job) string {
	switch {
	case j.QueuedAt.IsZero():
		return "-"
	case j.FinishedAt.IsZero():
		return fmt.Sprintf("%.1fs", time.Since(j.QueuedAt).Seconds())
	}
	return fmt.Sprintf("%.1fs", j.FinishedAt.Sub(j.QueuedAt).Seconds())
}

// timeline is how long the runner of a job was in each state.
func (d *demo) timeline(ctx context.Context, jobID int64) string {
	job, err := d.daemon.store.Job(ctx, jobID)
	if err != nil || job.RunnerID == "" {
		return "no microVM ran it"
	}
	events, err := d.daemon.store.Events(ctx, firerunner.EventQuery{RunnerID: job.RunnerID, Kinds: []firerunner.EventKind{firerunner.EventMoved}})
	if err != nil {
		return err.Error()
	}
	var parts []string
	var total time.Duration
	for _, e := range events {
		parts = append(parts, fmt.Sprintf("%s %.2f", e.From, e.Took.Seconds()))
		total += e.Took
	}
	return fmt.Sprintf("microVM %s: %s = %.2f s", job.RunnerID, strings.Join(parts, " + "), total.Seconds())
}

// decoration is what gitlab-runner puts into a log for GitLab's page: colours, section marks, time stamps.
var decoration = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]|section_(start|end):[0-9]+:[a-z_]+(\\[[^]]*\\])?|(?m)^[0-9T:.-]+Z [0-9A-F]{2}[OE][+ ]?")

// tail returns the last lines of a job's log, without decoration.
func tail(trace string, n int) []string {
	var lines []string
	for line := range strings.SplitSeq(decoration.ReplaceAllString(trace, ""), "\n") {
		if i := strings.LastIndexByte(strings.TrimRight(line, "\r"), '\r'); i >= 0 {
			line = line[i+1:]
		}
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines[max(len(lines)-n, 0):]
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
