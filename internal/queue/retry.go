package queue

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/riverqueue/river/rivertype"
)

// A step that fails is tried again after half a second, then twice that, and so on up to half a minute, for ever:
// steps are about what is due, and what is due stays due. River keeps each failure in the row and discards a job after
// its last attempt; so after the first 20 a failure becomes a snooze, which River neither keeps nor counts.
const (
	backoffFirst       = 500 * time.Millisecond
	backoffMost        = 30 * time.Second
	rememberedAttempts = 20
)

// backoff is how long to wait after the failure of an attempt, counted from 1; up to a tenth less by chance, so that
// what failed together does not come back together.
func backoff(attempt int) time.Duration {
	d := backoffMost
	if n := max(attempt-1, 0); n < 16 {
		d = min(d, backoffFirst<<n)
	}
	return d - rand.N(d/10)
}

// retryPolicy tells River when to try again.
type retryPolicy struct{ now func() time.Time }

// NextRetry implements river.ClientRetryPolicy.
func (p retryPolicy) NextRetry(job *rivertype.JobRow) time.Time {
	return p.now().Add(backoff(job.Attempt))
}

// onlyWarnings leaves out what River says about its daily work; each failed step is logged by us.
type onlyWarnings struct{ slog.Handler }

func (h onlyWarnings) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && h.Handler.Enabled(ctx, level)
}

func (h onlyWarnings) WithAttrs(attrs []slog.Attr) slog.Handler {
	return onlyWarnings{h.Handler.WithAttrs(attrs)}
}

func (h onlyWarnings) WithGroup(name string) slog.Handler {
	return onlyWarnings{h.Handler.WithGroup(name)}
}
