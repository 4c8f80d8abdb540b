package sim

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/firerunner/firerunner"
)

// stepQueue is the queue's table: it outlives the daemon. A step is there until it was done; one that fails is done again
// with the pauses of the real queue; a dead daemon's are taken back by its successor.
type stepQueue struct {
	rows   []*stepRow // in the order in which they came
	lastID int64
}

type stepRow struct {
	id       int64
	step     firerunner.Step
	due      time.Time
	attempt  int
	running  bool
	by       string // the controller whose process runs it, or did last
	runAgain bool   // chance wants it done twice
}

const (
	stepsAtOnce  = 16
	stepTimeout  = 2 * time.Minute
	firstBackoff = 500 * time.Millisecond
	mostBackoff  = 30 * time.Second
)

func stepWords(s firerunner.Step) string {
	return fmt.Sprintf("%s %d %d %s %s %s", s.Kind, s.ProjectID, s.JobID, s.Tags, s.RunnerID, s.Controller)
}

// add writes the steps of one transaction down. A step that waits already and is due is not added again, as in the real
// queue. The order within the transaction is not kept: control may have drawn it from a map.
func (q *stepQueue) add(w *world, steps []firerunner.Step) {
	steps = slices.Clone(steps)
	slices.SortFunc(steps, func(a, b firerunner.Step) int { return cmp.Compare(stepWords(a), stepWords(b)) })
	now := time.Now()
	for _, s := range steps {
		if w.o.tamper.lose != nil && w.o.tamper.lose(w, s) {
			continue
		}
		due := s.NotBefore
		if due.Before(now) {
			due = now
		}
		words := stepWords(s)
		if slices.ContainsFunc(q.rows, func(r *stepRow) bool {
			return !r.running && !r.due.After(due) && stepWords(r.step) == words
		}) {
			continue
		}
		q.lastID++
		row := &stepRow{id: q.lastID, step: s, due: due}
		if w.happens(w.faults.stepLate) {
			row.due = due.Add(w.between(0, time.Minute))
			w.rough = append(w.rough, span{now, row.due})
		}
		row.runAgain = w.happens(w.faults.stepTwice)
		q.rows = append(q.rows, row)
	}
}

// takeBack makes due what a controller's dead process was doing.
func (q *stepQueue) takeBack(controller string) {
	for _, r := range q.rows {
		if r.by == controller {
			r.running = false
		}
	}
}

// due returns the steps that a daemon may begin, and when the next one may.
func (q *stepQueue) due(now time.Time, d *daemon) (rows []*stepRow, next time.Time) {
	running := 0
	for _, r := range q.rows {
		switch {
		case r.running && r.by == d.name:
			running++
		case r.running, !d.serves(r.step.Controller):
		case !r.due.After(now):
			rows = append(rows, r)
		case next.IsZero() || r.due.Before(next):
			next = r.due
		}
	}
	if running >= stepsAtOnce {
		return nil, time.Time{}
	}
	return rows, next
}

func (q *stepQueue) remove(row *stepRow) {
	q.rows = slices.DeleteFunc(q.rows, func(r *stepRow) bool { return r == row })
}

// do runs one step for a daemon and writes down what became of it.
func (d *daemon) do(row *stepRow) {
	row.running, row.by = true, d.name
	w := d.w
	begun := d.beginStep(row.step.Controller)
	d.goes.Go(func() {
		defer begun()
		ctx, cancel := context.WithTimeout(d.stepping, stepTimeout)
		defer cancel()
		ctx = named(ctx, fmt.Sprintf("step %d %s", row.id, row.step.Kind))
		err := d.steps[row.step.Kind](ctx, row.step)
		if d.turn(ctx, "done", true) != nil {
			return // the successor takes it back
		}
		if !row.running || !slices.Contains(w.queue.rows, row) {
			return // another took it back while this process stood still
		}
		row.running = false
		row.attempt++
		after, later := firerunner.IsLater(err)
		switch {
		case err == nil && row.runAgain:
			row.runAgain, row.due = false, time.Now().Add(w.between(0, 10*time.Second))
		case err == nil:
			w.queue.remove(row)
		case later:
			row.attempt--
			row.due = time.Now().Add(max(after, 0) + w.between(0, 250*time.Millisecond))
		default:
			w.say("step failed", "step", stepWords(row.step), "error", err)
			pause := mostBackoff
			if n := row.attempt - 1; n < 10 {
				pause = min(pause, firstBackoff<<n)
			}
			row.due = time.Now().Add(pause - w.between(0, pause/10))
		}
	})
}
