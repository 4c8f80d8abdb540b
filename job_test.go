package firerunner_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firerunner/firerunner"
)

var statuses = []firerunner.JobStatus{
	"created", "preparing", "manual", firerunner.JobPending, firerunner.JobRunning, firerunner.JobCanceling,
	firerunner.JobSuccess, firerunner.JobFailed, firerunner.JobCanceled, firerunner.JobSkipped,
}

func TestJobStatus(t *testing.T) {
	t.Parallel()
	for _, s := range statuses {
		final := slices.Contains([]firerunner.JobStatus{
			firerunner.JobSuccess, firerunner.JobFailed, firerunner.JobCanceled, firerunner.JobSkipped,
		}, s)
		require.Equal(t, final, s.Final(), "%s", s)
	}
	require.Less(t, firerunner.JobStatus("created").Rank(), firerunner.JobPending.Rank())
	require.Less(t, firerunner.JobPending.Rank(), firerunner.JobRunning.Rank())
	require.Less(t, firerunner.JobRunning.Rank(), firerunner.JobCanceling.Rank())
	require.Less(t, firerunner.JobCanceling.Rank(), firerunner.JobSuccess.Rank())
}

func TestJobWants(t *testing.T) {
	t.Parallel()
	wanted := firerunner.Job{ID: 1, ProjectID: 7, Tags: "a,b", Ours: true, Status: firerunner.JobPending}
	require.True(t, wanted.Wants())
	require.Equal(t, firerunner.Demand{ProjectID: 7, Tags: "a,b"}, wanted.Demand())
	for name, change := range map[string]func(*firerunner.Job){
		"not ours": func(j *firerunner.Job) { j.Ours = false },
		"refused":  func(j *firerunner.Job) { j.Refused = firerunner.ReasonSizeRefused },
		"created":  func(j *firerunner.Job) { j.Status = "created" },
		"running":  func(j *firerunner.Job) { j.Status = firerunner.JobRunning },
		"has one":  func(j *firerunner.Job) { j.RunnerID = "r0" },
	} {
		j := wanted
		change(&j)
		require.False(t, j.Wants(), name)
	}
}

// sight draws what a hook or an answer may tell of one job.
func sight(t *rapid.T) firerunner.Job {
	when := func(name string) time.Time {
		if n := rapid.IntRange(0, 3).Draw(t, name); n > 0 {
			return noon.Add(time.Duration(n) * time.Minute)
		}
		return time.Time{}
	}
	return firerunner.Job{
		ID:         5,
		Status:     rapid.SampledFrom(statuses).Draw(t, "status"),
		Failure:    rapid.SampledFrom([]string{"", "script_failure"}).Draw(t, "failure"),
		GitLabID:   rapid.Int64Range(0, 2).Draw(t, "runner in gitlab"),
		RunnerID:   rapid.SampledFrom([]string{"", "r1", "r2"}).Draw(t, "runner"),
		CreatedAt:  when("created"),
		QueuedAt:   when("queued"),
		StartedAt:  when("started"),
		FinishedAt: when("finished"),
		SeenAt:     when("seen"),
	}
}

func TestJobMergeNeverForgets(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		known := sight(t)
		for range rapid.IntRange(1, 6).Draw(t, "sights") {
			seen := sight(t)
			next := known.Merge(seen)
			if next.Status.Rank() < known.Status.Rank() || next.Status.Rank() < seen.Status.Rank() {
				t.Fatalf("%s and %s became %s", known.Status, seen.Status, next.Status)
			}
			if next.Status == known.Status && next.Status != seen.Status && next.Failure != known.Failure {
				t.Fatalf("the failure of an older sight came in: %q", next.Failure)
			}
			if known.GitLabID != 0 && next.GitLabID == 0 || known.RunnerID != "" && next.RunnerID == "" {
				t.Fatalf("forgot who has it: %+v", next)
			}
			for _, at := range [][2]time.Time{
				{known.CreatedAt, next.CreatedAt},
				{known.QueuedAt, next.QueuedAt},
				{known.StartedAt, next.StartedAt},
				{known.FinishedAt, next.FinishedAt},
			} {
				if !at[0].IsZero() && at[1].IsZero() {
					t.Fatalf("forgot a time: %+v", next)
				}
			}
			if next.SeenAt.Before(known.SeenAt) {
				t.Fatal("seen at an earlier time than before")
			}
			if again := next.Merge(seen); again != next {
				t.Fatalf("the same sight twice is not the same:\n%+v\n%+v", next, again)
			}
			known = next
		}
	})
}

func TestTagSet(t *testing.T) {
	t.Parallel()
	require.Equal(t, firerunner.TagSet("a,b,c"), firerunner.NewTagSet("c", " a ", "b", "", "a"))
	require.Equal(t, []string{"a", "b"}, firerunner.NewTagSet("b,a").List())
	require.Equal(t, firerunner.TagSet(""), firerunner.NewTagSet())
	require.Nil(t, firerunner.NewTagSet(" , ").List())
}

func FuzzTagSet(f *testing.F) {
	f.Add("b\na\nb")
	f.Add("a,b\n ,\n\x00")
	f.Fuzz(func(t *testing.T, lines string) {
		tags := strings.Split(lines, "\n")
		set := firerunner.NewTagSet(tags...)
		list := set.List()
		require.True(t, slices.IsSorted(list))
		require.Equal(t, list, slices.Compact(slices.Clone(list)), "a tag twice")
		require.NotContains(t, list, "")
		require.Equal(t, set, firerunner.NewTagSet(list...), "not canonical")
		slices.Reverse(tags)
		require.Equal(t, set, firerunner.NewTagSet(tags...), "the order matters")
	})
}
