package control

import (
	"context"
	"errors"
	"time"

	"github.com/firerunner/firerunner"
)

// Steps returns what the queue is to call for each kind of step.
func (c *Control) Steps() map[firerunner.StepKind]firerunner.StepFunc {
	return map[firerunner.StepKind]firerunner.StepFunc{
		firerunner.StepReadJob: patient(c.readJob),
		firerunner.StepDemand:  patient(c.demand),
		firerunner.StepPlace:   patient(c.place),
		firerunner.StepAdvance: patient(c.advance),
	}
}

// rateLimited is what an error of GitLab can say besides: how long to leave it alone; 0: it did not say.
type rateLimited interface{ RetryAfter() time.Duration }

// patient turns an error that says when to come back (GitLab's rate limit) into Later, and a lost race for a row into
// an early second look: neither is a failure.
func patient(do firerunner.StepFunc) firerunner.StepFunc {
	return func(ctx context.Context, s firerunner.Step) error {
		err := do(ctx, s)
		var limited rateLimited
		switch {
		case errors.As(err, &limited):
			return firerunner.Later(max(limited.RetryAfter(), time.Second), "GitLab's rate limit")
		case firerunner.CodeOf(err) == firerunner.Conflict:
			return firerunner.Later(100*time.Millisecond, "the row changed meanwhile")
		}
		return err
	}
}
