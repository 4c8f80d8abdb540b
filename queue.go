package firerunner

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// StepKind names a kind of short, idempotent work.
type StepKind string

// The steps. A step is enqueued in the transaction that makes it necessary, so that no crash can lose it.
const (
	StepReadJob StepKind = "read_job" // ask GitLab for one job and count it: ProjectID, JobID
	StepDemand  StepKind = "demand"   // make supply and demand equal: ProjectID, Tags
	StepPlace   StepKind = "place"    // give queued runners a host
	StepAdvance StepKind = "advance"  // move one runner one step on: RunnerID
)

// Step is one piece of queued work. It may run twice, late, and at the same time as another: it looks at the store
// and does what is due, if anything is.
type Step struct {
	Kind      StepKind `json:"kind"`
	ProjectID int64    `json:"project_id,omitempty"`
	JobID     int64    `json:"job_id,omitempty"`
	Tags      TagSet   `json:"tags,omitempty"`
	RunnerID  string   `json:"runner_id,omitempty"`
	// Controller is the one that is to do it; empty: any of them.
	Controller string    `json:"controller,omitempty"`
	NotBefore  time.Time `json:"-"` // zero: at once
}

// StepFunc does a step. An error makes the queue try again with back-off; Later asks for another run without
// counting as a failure.
type StepFunc func(ctx context.Context, s Step) error

// Later returns the error by which a StepFunc asks to be run again after d.
func Later(d time.Duration, why string) error { return &laterError{after: d, why: why} }

type laterError struct {
	after time.Duration
	why   string
}

func (e *laterError) Error() string { return fmt.Sprintf("again in %s: %s", e.after, e.why) }

// IsLater reports whether err asks for another run, and after which time.
func IsLater(err error) (time.Duration, bool) {
	var l *laterError
	if errors.As(err, &l) {
		return l.after, true
	}
	return 0, false
}
