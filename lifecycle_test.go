package firerunner_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firerunner/firerunner"
)

var owners = []firerunner.Owner{
	firerunner.OwnerPlacement, firerunner.OwnerProvision, firerunner.OwnerWatch, firerunner.OwnerStop,
}

func TestLifecycleOneOwnerPerState(t *testing.T) {
	t.Parallel()
	owner := map[firerunner.State]firerunner.Owner{}
	for _, tr := range firerunner.Transitions() {
		require.Contains(t, owners, tr.Owner)
		if known, ok := owner[tr.From]; ok {
			require.Equal(t, known, tr.Owner, "two owners move a runner out of %s", tr.From)
		}
		owner[tr.From] = tr.Owner
		require.Equal(t, tr.Owner, firerunner.OwnerOf(tr.From))
	}
	for _, s := range firerunner.States() {
		if s == firerunner.Gone {
			require.NotContains(t, owner, s, "nothing leaves gone")
			require.Empty(t, firerunner.OwnerOf(s))
			continue
		}
		require.Contains(t, owner, s, "nobody moves a runner out of %s", s)
	}
	require.Empty(t, firerunner.OwnerOf(firerunner.State(7)))
}

// reachable returns every state that can be reached from one, itself included.
func reachable(from firerunner.State) []firerunner.State {
	seen := []firerunner.State{from}
	for i := 0; i < len(seen); i++ {
		for _, tr := range firerunner.Transitions() {
			if tr.From == seen[i] && !slices.Contains(seen, tr.To) {
				seen = append(seen, tr.To)
			}
		}
	}
	return seen
}

func TestLifecycleEverythingIsReachable(t *testing.T) {
	t.Parallel()
	require.ElementsMatch(t, firerunner.States(), reachable(firerunner.Queued))
	for _, s := range firerunner.States() {
		require.Contains(t, reachable(s), firerunner.Gone, "a runner could be stuck in %s", s)
	}
}

func TestLifecycleOnlyRises(t *testing.T) {
	t.Parallel()
	require.True(t, slices.IsSorted(firerunner.States()))
	for _, tr := range firerunner.Transitions() {
		require.Greater(t, tr.To, tr.From)
	}
}

// TestLifecycleEveryWaitEnds: a state without a deadline is one where nothing is held.
func TestLifecycleEveryWaitEnds(t *testing.T) {
	t.Parallel()
	limits := firerunner.DefaultDeadlines()
	var life time.Duration
	for _, row := range firerunner.Lifecycle() {
		r := firerunner.Runner{State: row.State}
		require.Equal(t, !r.Reserves(), limits.Of(row.State) == 0, "%s", row.State)
		require.NotEmpty(t, row.Evidence)
		require.NotEmpty(t, row.Overdue)
		if row.State >= firerunner.Creating {
			life += limits.Of(row.State)
		}
		switch row.State {
		case firerunner.Running:
			require.Equal(t, limits.JobTimeout+row.Within, limits.Of(row.State))
		default:
			require.Equal(t, row.Within, limits.Of(row.State))
		}
	}
	require.Equal(t, life, limits.Life())
	require.Zero(t, limits.Of(firerunner.Gone))
}

func TestMayMove(t *testing.T) {
	t.Parallel()
	permitted := 0
	for _, from := range firerunner.States() {
		for _, to := range firerunner.States() {
			for _, owner := range owners {
				want := slices.Contains(firerunner.Transitions(), firerunner.Transition{From: from, To: to, Owner: owner})
				require.Equal(t, want, firerunner.MayMove(from, to, owner), "%s to %s by %s", from, to, owner)
				if want {
					permitted++
				}
			}
		}
	}
	require.Equal(t, 12, permitted, "7 rows, and an early end of each of the first 5")
	require.False(t, firerunner.MayMove(firerunner.Queued, firerunner.Placed, firerunner.OwnerWatch), "the wrong owner")
	require.False(t, firerunner.MayMove(firerunner.Running, firerunner.Running, firerunner.OwnerWatch), "twice")
	require.False(t, firerunner.MayMove(firerunner.Booting, firerunner.Gone, firerunner.OwnerWatch), "gone without stopping")
}

// TestLifecycleRandomWalk: whatever the parts try, in whatever order, a runner's state never falls, each move is one
// that the table permits, and a runner that is moved on long enough is gone.
func TestLifecycleRandomWalk(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
		limits := firerunner.DefaultDeadlines()
		r := firerunner.NewRunner("r0", firerunner.Demand{ProjectID: 7, Tags: "a"}, now)
		for range rapid.IntRange(0, 60).Draw(t, "tries") {
			before := r
			now = now.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "seconds")) * time.Second)
			to := rapid.SampledFrom(firerunner.States()).Draw(t, "to")
			owner := rapid.SampledFrom(owners).Draw(t, "owner")
			event, err := r.Move(to, owner, limits, now, "tried")
			if err != nil {
				if firerunner.CodeOf(err) != firerunner.Internal || r != before {
					t.Fatalf("refused, but %v changed to %v: %v", before, r, err)
				}
				continue
			}
			if r.State <= before.State || !firerunner.MayMove(before.State, r.State, owner) {
				t.Fatalf("%s moved from %s to %s", owner, before.State, r.State)
			}
			if event.From != before.State || event.To != r.State || event.Took != now.Sub(before.MovedAt) {
				t.Fatalf("the event says something else: %+v", event)
			}
			if r.Live() && r.Deadline.IsZero() {
				t.Fatalf("no deadline in %s", r.State)
			}
		}
		for r.Live() {
			next := rapid.SampledFrom(choices(r.State)).Draw(t, "next")
			if _, err := r.Move(next.To, next.Owner, limits, now, "onwards"); err != nil {
				t.Fatal(err)
			}
		}
		if r.State != firerunner.Gone || !r.Deadline.IsZero() {
			t.Fatalf("ended as %+v", r)
		}
	})
}

// choices returns the permitted steps out of a state.
func choices(from firerunner.State) []firerunner.Transition {
	var steps []firerunner.Transition
	for _, tr := range firerunner.Transitions() {
		if tr.From == from {
			steps = append(steps, tr)
		}
	}
	return steps
}

func TestStateText(t *testing.T) {
	t.Parallel()
	for _, s := range firerunner.States() {
		text, err := s.MarshalText()
		require.NoError(t, err)
		var back firerunner.State
		require.NoError(t, back.UnmarshalText(text))
		require.Equal(t, s, back)
	}
	var s firerunner.State
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(s.UnmarshalText([]byte("asleep"))))
	require.Equal(t, "state(7)", firerunner.State(7).String())
}
