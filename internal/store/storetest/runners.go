package storetest

import (
	"context"
	"net/netip"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func fullRunner() firerunner.Runner {
	return firerunner.Runner{
		ID: "runner1", Demand: firerunner.Demand{ProjectID: 1 << 40, Tags: firerunner.NewTagSet("b", "a", awkward)},
		Profile: "default", Size: firerunner.Size{VCPUs: 2, MemoryMiB: 4096, DiskMiB: 10240}, Image: "sha256:abc",
		State: firerunner.Running, Desired: firerunner.Unwanted, Outcome: firerunner.Failed, Reason: firerunner.ReasonVMExited,
		Message: awkward, Host: "host", Address: netip.MustParseAddr("10.1.2.3"), GitLabID: 7, JobID: 1 << 50, JobKey: "sealed_Key-9", Report: 9,
		CreatedAt: noon(), MovedAt: noon().Add(time.Second), Deadline: noon().Add(time.Hour),
	}
}

func (s *suite) runnerOK() {
	want := fullRunner()
	s.create(want)
	got, err := s.Store.Runner(s.ctx(), want.ID)
	require.NoError(s, err)
	require.Equal(s, want, got)

	got.State, got.Message, got.Deadline, got.JobKey = firerunner.Gone, "", time.Time{}, ""
	version := got.Version
	s.update(func(ctx context.Context, tx firerunner.Tx) error { return tx.SaveRunner(ctx, &got) })
	require.Equal(s, version+1, got.Version, "a save raises the version")
	again, err := s.Store.Runner(s.ctx(), want.ID)
	require.NoError(s, err)
	require.Equal(s, got, again)

	s.update(func(ctx context.Context, tx firerunner.Tx) error { // twice in one transaction
		if err := tx.SaveRunner(ctx, &got); err != nil {
			return err
		}
		return tx.SaveRunner(ctx, &got)
	})
	require.Equal(s, version+3, got.Version)
}

func (s *suite) runnerErrNotFound() {
	_, err := s.Store.Runner(s.ctx(), "nobody")
	s.requireCode(firerunner.NotFound, err)
	err = s.Store.Update(s.ctx(), func(tx firerunner.Tx) error {
		r := runnerNumber(1)
		return tx.SaveRunner(s.ctx(), &r)
	})
	s.requireCode(firerunner.NotFound, err)
}

func (s *suite) runnerErrConflict() {
	before := fullRunner()
	s.create(before)
	err := s.Store.Update(s.ctx(), func(tx firerunner.Tx) error { return tx.CreateRunner(s.ctx(), before) })
	s.requireCode(firerunner.Conflict, err)

	for name, change := range map[string]func(r *firerunner.Runner){
		"an older version":     func(r *firerunner.Runner) { r.Version-- },
		"a version to come":    func(r *firerunner.Runner) { r.Version++ },
		"a falling state":      func(r *firerunner.Runner) { r.State = firerunner.Ready },
		"another outcome":      func(r *firerunner.Runner) { r.Outcome = firerunner.Succeeded },
		"an outcome taken off": func(r *firerunner.Runner) { r.Outcome = "" },
		"wanted again":         func(r *firerunner.Runner) { r.Desired = firerunner.Wanted },
	} {
		r := before
		change(&r)
		version := r.Version
		err := s.Store.Update(s.ctx(), func(tx firerunner.Tx) error { return tx.SaveRunner(s.ctx(), &r) })
		require.Error(s, err, name)
		require.Equal(s, firerunner.Conflict, firerunner.CodeOf(err), "%s: %v", name, err)
		require.Equal(s, version, r.Version, "%s: a refused save leaves the version", name)
	}
	after, err := s.Store.Runner(s.ctx(), before.ID)
	require.NoError(s, err)
	require.Equal(s, before, after, "a refused save changes nothing")
}

func (s *suite) runnerQueries() {
	a, b := firerunner.Demand{ProjectID: 1, Tags: "a"}, firerunner.Demand{ProjectID: 1, Tags: "a,b"}
	set := func(n int, change func(r *firerunner.Runner)) firerunner.Runner {
		r := runnerNumber(n)
		change(&r)
		return r
	}
	all := []firerunner.Runner{
		set(1, func(r *firerunner.Runner) { r.State, r.Outcome, r.GitLabID = firerunner.Gone, firerunner.Rejected, 11 }),
		set(2, func(r *firerunner.Runner) { r.State, r.Deadline = firerunner.Booting, noon() }),
		set(3, func(r *firerunner.Runner) { r.Demand, r.GitLabID, r.JobID = b, 13, 7 }),
		set(4, func(r *firerunner.Runner) { r.State, r.Deadline, r.JobID = firerunner.Gone, noon(), 7 }),
		set(5, func(r *firerunner.Runner) {
			r.State, r.Outcome, r.Deadline = firerunner.Stopping, firerunner.Rejected, noon().Add(time.Minute)
		}),
		set(6, func(r *firerunner.Runner) { r.Demand.ProjectID = 2 }),
	}
	s.create(all[3], all[0], all[5], all[2], all[1], all[4])
	for name, test := range map[string]struct {
		q    firerunner.RunnerQuery
		want []int
	}{
		"all, by ID":               {firerunner.RunnerQuery{}, []int{1, 2, 3, 4, 5, 6}},
		"limited, latest first":    {firerunner.RunnerQuery{Limit: 2}, []int{6, 5}},
		"limit beyond all":         {firerunner.RunnerQuery{Limit: 99}, []int{6, 5, 4, 3, 2, 1}},
		"live":                     {firerunner.RunnerQuery{Live: true}, []int{2, 3, 5, 6}},
		"live, limited":            {firerunner.RunnerQuery{Live: true, Limit: 3}, []int{6, 5, 3}},
		"demand":                   {firerunner.RunnerQuery{Demand: &a}, []int{1, 2, 4, 5}},
		"demand, limited":          {firerunner.RunnerQuery{Demand: &a, Limit: 3}, []int{5, 4, 2}},
		"demand, live":             {firerunner.RunnerQuery{Demand: &a, Live: true}, []int{2, 5}},
		"tags must be equal":       {firerunner.RunnerQuery{Demand: &b}, []int{3}},
		"states":                   {firerunner.RunnerQuery{States: []firerunner.State{firerunner.Queued, firerunner.Booting}}, []int{2, 3, 6}},
		"states with gone":         {firerunner.RunnerQuery{States: []firerunner.State{firerunner.Gone, firerunner.Booting}}, []int{1, 2, 4}},
		"live and gone":            {firerunner.RunnerQuery{Live: true, States: []firerunner.State{firerunner.Gone}}, nil},
		"in GitLab":                {firerunner.RunnerQuery{GitLabID: 11}, []int{1}},
		"in GitLab, live":          {firerunner.RunnerQuery{GitLabID: 11, Live: true}, nil},
		"not in GitLab":            {firerunner.RunnerQuery{GitLabID: 12}, nil},
		"of a job":                 {firerunner.RunnerQuery{JobID: 7}, []int{3, 4}},
		"of a job, live":           {firerunner.RunnerQuery{JobID: 7, Live: true}, []int{3}},
		"of a job, demand, latest": {firerunner.RunnerQuery{JobID: 7, Demand: &a, Limit: 1}, []int{4}},
		"queued":                   {firerunner.RunnerQuery{States: []firerunner.State{firerunner.Queued}}, []int{3, 6}},
		"queued, demand":           {firerunner.RunnerQuery{States: []firerunner.State{firerunner.Queued}, Demand: &b}, []int{3}},
		"overdue at the deadline":  {firerunner.RunnerQuery{Overdue: noon()}, nil},
		"overdue after it":         {firerunner.RunnerQuery{Overdue: noon().Add(time.Nanosecond)}, []int{2}},
		"overdue much later":       {firerunner.RunnerQuery{Overdue: noon().Add(time.Hour)}, []int{2, 5}},
		"outcome":                  {firerunner.RunnerQuery{Outcome: firerunner.Rejected}, []int{1, 5}},
		"outcome, since":           {firerunner.RunnerQuery{Outcome: firerunner.Rejected, Since: noon().Add(2 * time.Second)}, []int{5}},
		"since is inclusive":       {firerunner.RunnerQuery{Since: noon().Add(5 * time.Second)}, []int{5, 6}},
		"since, just after":        {firerunner.RunnerQuery{Since: noon().Add(5*time.Second + time.Nanosecond)}, []int{6}},
		"since, limited":           {firerunner.RunnerQuery{Since: noon().Add(2 * time.Second), Limit: 2}, []int{6, 5}},
		"since and live and state": {firerunner.RunnerQuery{Since: noon(), Live: true, States: []firerunner.State{firerunner.Stopping}}, []int{5}},
	} {
		got, err := s.Store.Runners(s.ctx(), test.q)
		require.NoError(s, err, name)
		var want []firerunner.Runner
		for _, n := range test.want {
			want = append(want, all[n-1])
		}
		require.Len(s, got, len(want), name)
		for i := range want {
			require.Equal(s, want[i], got[i], name)
		}
	}
}
