package e2e

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// TestTwentyJobsOnTwoSlots pushes twenty jobs at once. It has the machine for itself: it is not parallel.
func TestTwentyJobsOnTwoSlots(t *testing.T) {
	const jobs, slots = 20, 2
	s := newSite(t, options{slots: slots})
	p := s.push(ci("many:\n  parallel: 20\n  script: [echo \"$CI_NODE_INDEX of $CI_NODE_TOTAL\"]\n"))
	ctx, cancel := s.patiently()
	defer cancel()
	done, err := s.gitlab.WaitPipeline(ctx, p.ID)
	require.NoError(t, err, "\n%s", s.timeline())
	require.Equal(t, gitlabtest.StatusSuccess, done.Status)
	s.quiet()

	rows := s.rows(firerunner.RunnerQuery{})
	require.Len(t, rows, jobs)
	for _, r := range rows {
		require.Equal(t, firerunner.Succeeded, r.Outcome, "%s %s", r.Reason, r.Message)
	}
	require.Equal(t, slots, s.mostReserved(), "by the events")
	require.Equal(t, slots, s.observer.mostVMs(), "by the processes")
}

// mostReserved is the most runners that ever held capacity at once, by the events.
func (s *site) mostReserved() int {
	most, held := 0, []string{}
	for _, e := range s.events(firerunner.EventQuery{Kinds: []firerunner.EventKind{firerunner.EventMoved}}) {
		switch {
		case e.To == firerunner.Gone:
			held = slices.DeleteFunc(held, func(id string) bool { return id == e.RunnerID })
		case e.To >= firerunner.Placed && !slices.Contains(held, e.RunnerID):
			held = append(held, e.RunnerID)
		}
		most = max(most, len(held))
	}
	return most
}
