package queue

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/riverqueue/river"

	"github.com/firerunner/firerunner"
)

// work runs the steps of one kind.
type work struct {
	river.WorkerDefaults[args]
	do      firerunner.StepFunc
	timeout time.Duration
	ran     func(firerunner.Step, time.Duration, error)
	logger  *slog.Logger

	underWay *underWay
}

// Timeout implements river.Worker.
func (w *work) Timeout(*river.Job[args]) time.Duration { return w.timeout }

// Work implements river.Worker. It is the edge at which a step's error is logged.
func (w *work) Work(ctx context.Context, job *river.Job[args]) error {
	w.underWay.begin(job.ID)
	defer w.underWay.end(job.ID)
	step, began := job.Args.Step, time.Now()
	err := w.guard(ctx, step)
	took := time.Since(began)
	if w.ran != nil {
		w.ran(step, took, err)
	}
	if err == nil {
		return nil
	}
	after, later := firerunner.IsLater(err)
	level, message := slog.LevelWarn, "step failed, will be tried again"
	if later {
		level, message = slog.LevelDebug, "step put off"
	}
	w.logger.Log(ctx, level, message, slog.String("step", string(step.Kind)), slog.String("runner", step.RunnerID),
		slog.Int64("project", step.ProjectID), slog.Int64("job", step.JobID), slog.Int("attempt", job.Attempt),
		slog.Duration("took", took), slog.Any("error", err))
	switch {
	case later:
		return river.JobSnooze(max(after, 0))
	case job.Attempt > rememberedAttempts:
		return river.JobSnooze(backoff(job.Attempt))
	}
	return err
}

// guard turns a panic into an error: one bad row must not end the daemon, nor be forgotten.
func (w *work) guard(ctx context.Context, step firerunner.Step) (err error) {
	defer func() {
		if p := recover(); p != nil {
			w.logger.ErrorContext(ctx, "step panicked", slog.String("step", string(step.Kind)),
				slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
			err = firerunner.Errorf(firerunner.Internal, "step %s panicked: %v", step.Kind, p)
		}
	}()
	return w.do(ctx, step)
}
