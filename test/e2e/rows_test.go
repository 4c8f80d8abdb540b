package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// What the daemon has written down, read as another process may read it.

// rows returns the runners, oldest first.
func (s *site) rows(q firerunner.RunnerQuery) []firerunner.Runner {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	rs, err := s.store.Runners(ctx, q)
	require.NoError(s.t, err)
	return rs
}

// events returns the log of events, oldest first.
func (s *site) events(q firerunner.EventQuery) []firerunner.Event {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	es, err := s.store.Events(ctx, q)
	require.NoError(s.t, err)
	return es
}

// row returns the one runner that took a job.
func (s *site) row(job int64) firerunner.Runner {
	s.t.Helper()
	var took []firerunner.Runner
	for _, r := range s.rows(firerunner.RunnerQuery{}) {
		if r.JobID == job {
			took = append(took, r)
		}
	}
	require.Len(s.t, took, 1, "runners that took job %d", job)
	return took[0]
}

// inState waits until there is a runner in a state, and returns the first.
func (s *site) inState(state firerunner.State) firerunner.Runner {
	s.t.Helper()
	var found firerunner.Runner
	s.eventually("a runner that is "+state.String(), func() bool {
		rs := s.rows(firerunner.RunnerQuery{States: []firerunner.State{state}})
		if len(rs) > 0 {
			found = rs[0]
		}
		return len(rs) > 0
	})
	return found
}

// gone waits until a runner is gone, and returns it as it ended.
func (s *site) gone(id string) firerunner.Runner {
	s.t.Helper()
	var r firerunner.Runner
	s.eventually("the end of runner "+id, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		var err error
		r, err = s.store.Runner(ctx, id)
		require.NoError(s.t, err)
		return r.State == firerunner.Gone
	})
	return r
}

// ended requires how a runner's life ended.
func (s *site) ended(id string, outcome firerunner.Outcome, reason firerunner.Reason) firerunner.Runner {
	s.t.Helper()
	r := s.gone(id)
	require.Equal(s.t, outcome, r.Outcome, "%s: %s", r.Reason, r.Message)
	require.Equal(s.t, reason, r.Reason, r.Message)
	return r
}

// timeline is what happened, for the log of a test that failed.
func (s *site) timeline() string {
	var b strings.Builder
	for _, e := range s.events(firerunner.EventQuery{}) {
		fmt.Fprintf(&b, "%s %-15s %-16s job=%-3d", e.At.Format("05.000"), e.Kind, e.RunnerID, e.JobID)
		if e.Kind == firerunner.EventMoved {
			fmt.Fprintf(&b, " %s → %s after %s", e.From, e.To, e.Took.Round(time.Millisecond))
		}
		fmt.Fprintf(&b, " [%s] %s %s\n", e.Actor, e.Reason, e.Message)
	}
	return b.String()
}
