package storetest

import (
	"context"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func (s *suite) saveJob(seen firerunner.Job) (saved firerunner.Job) {
	s.Helper()
	s.update(func(ctx context.Context, tx firerunner.Tx) (err error) {
		saved, err = tx.SaveJob(ctx, seen)
		return err
	})
	return saved
}

func fullJob() firerunner.Job {
	return firerunner.Job{
		ID: 1 << 52, ProjectID: 1 << 40, ProjectPath: "group/name", PipelineID: 3, Name: awkward, Stage: "test", Ref: awkward,
		Status: firerunner.JobFailed, Failure: "script_failure", Tags: "a,b", GitLabID: 5, RunnerID: "runner1", Ours: true,
		Profile: "default", Size: firerunner.Size{VCPUs: 1, MemoryMiB: 2048, DiskMiB: 1}, Refused: firerunner.ReasonSizeRefused,
		Message: "too large", CreatedAt: noon(), QueuedAt: noon().Add(1 * time.Second), StartedAt: noon().Add(2 * time.Second),
		FinishedAt: noon().Add(3 * time.Second), SeenAt: noon().Add(4 * time.Second),
	}
}

func (s *suite) jobOK() {
	_, err := s.Store.Job(s.ctx(), 1)
	s.requireCode(firerunner.NotFound, err)
	for _, want := range []firerunner.Job{fullJob(), {ID: 2, Status: "manual"}, {ID: 3, FinishedAt: time.Date(9999, 1, 2, 3, 4, 5, 0, time.UTC)}} {
		require.Equal(s, want, s.saveJob(want))
		got, err := s.Store.Job(s.ctx(), want.ID)
		require.NoError(s, err)
		require.Equal(s, want, got)
	}
}

// jobMonotonic: sights come late and out of order; the store keeps what firerunner.Job.Merge says.
func (s *suite) jobMonotonic() {
	sight := func(status firerunner.JobStatus, minute int) firerunner.Job {
		return firerunner.Job{ID: 1, ProjectID: 2, Tags: "a", Status: status, SeenAt: noon().Add(time.Duration(minute) * time.Minute)}
	}
	running := sight(firerunner.JobRunning, 2)
	running.GitLabID, running.RunnerID, running.StartedAt = 7, "runner1", noon()
	want := sight(firerunner.JobPending, 1)
	for _, seen := range []firerunner.Job{
		want, running, sight(firerunner.JobPending, 1), sight("created", 0),
		sight(firerunner.JobSuccess, 3), sight(firerunner.JobRunning, 2), sight(firerunner.JobPending, 4),
	} {
		want = want.Merge(seen)
		require.Equal(s, want, s.saveJob(seen))
		got, err := s.Store.Job(s.ctx(), 1)
		require.NoError(s, err)
		require.Equal(s, want, got)
	}
	require.Equal(s, firerunner.JobSuccess, want.Status)
	require.Equal(s, int64(7), want.GitLabID)
}

func (s *suite) jobQueries() {
	a, b := firerunner.Demand{ProjectID: 1, Tags: "a"}, firerunner.Demand{ProjectID: 1, Tags: "a,b"}
	all := []firerunner.Job{
		{ID: 1, ProjectID: 1, Tags: "a", Status: firerunner.JobPending, Ours: true},
		{ID: 2, ProjectID: 1, Tags: "a", Status: firerunner.JobRunning, Ours: true, RunnerID: "runner1"},
		{ID: 3, ProjectID: 1, Tags: "a,b", Status: firerunner.JobPending, Ours: true},
		{ID: 4, ProjectID: 2, Tags: "a", Status: firerunner.JobPending},
		{ID: 5, ProjectID: 1, Tags: "a", Status: firerunner.JobSuccess, Ours: true, RunnerID: "runner1"},
		{ID: 6, ProjectID: 1, Tags: "a", Status: firerunner.JobPending},
	}
	for _, i := range []int{3, 0, 5, 2, 1, 4} {
		s.saveJob(all[i])
	}
	pending := []firerunner.JobStatus{firerunner.JobPending}
	for name, test := range map[string]struct {
		q    firerunner.JobQuery
		want []int
	}{
		"all, by ID":               {firerunner.JobQuery{}, []int{1, 2, 3, 4, 5, 6}},
		"limited, latest first":    {firerunner.JobQuery{Limit: 2}, []int{6, 5}},
		"demand":                   {firerunner.JobQuery{Demand: &a}, []int{1, 2, 5, 6}},
		"demand, pending":          {firerunner.JobQuery{Demand: &a, Statuses: pending}, []int{1, 6}},
		"demand, pending, ours":    {firerunner.JobQuery{Demand: &a, Statuses: pending, OursOnly: true}, []int{1}},
		"tags must be equal":       {firerunner.JobQuery{Demand: &b}, []int{3}},
		"demand, final":            {firerunner.JobQuery{Demand: &a, Statuses: []firerunner.JobStatus{firerunner.JobSuccess, firerunner.JobPending}}, []int{1, 5, 6}},
		"pending":                  {firerunner.JobQuery{Statuses: pending}, []int{1, 3, 4, 6}},
		"pending, limited":         {firerunner.JobQuery{Statuses: pending, Limit: 2}, []int{6, 4}},
		"project":                  {firerunner.JobQuery{ProjectID: 2}, []int{4}},
		"project, limited":         {firerunner.JobQuery{ProjectID: 1, Limit: 3}, []int{6, 5, 3}},
		"another project's":        {firerunner.JobQuery{ProjectID: 2, Demand: &a}, nil},
		"ours":                     {firerunner.JobQuery{OursOnly: true}, []int{1, 2, 3, 5}},
		"ours, limited":            {firerunner.JobQuery{OursOnly: true, Limit: 1}, []int{5}},
		"runner":                   {firerunner.JobQuery{RunnerID: "runner1"}, []int{2, 5}},
		"runner, running":          {firerunner.JobQuery{RunnerID: "runner1", Statuses: []firerunner.JobStatus{firerunner.JobRunning}}, []int{2}},
		"runner, limited":          {firerunner.JobQuery{RunnerID: "runner1", Limit: 1}, []int{5}},
		"runner without jobs":      {firerunner.JobQuery{RunnerID: "runner2"}, nil},
		"a status that nobody has": {firerunner.JobQuery{Statuses: []firerunner.JobStatus{firerunner.JobCanceling}}, nil},
	} {
		got, err := s.Store.Jobs(s.ctx(), test.q)
		require.NoError(s, err, name)
		require.Len(s, got, len(test.want), name)
		for i, n := range test.want {
			require.Equal(s, all[n-1], got[i], name)
		}
	}
}
