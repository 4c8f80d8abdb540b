package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func (s *suite) projectsOK() {
	at := func(minute int) time.Time { return noon().Add(time.Duration(minute) * time.Minute) }
	for _, p := range []firerunner.Project{
		{ID: 1, Path: "a/one", SeenAt: at(1)},
		{ID: 2, Path: "a/two", SeenAt: at(2)},
		{ID: 3, Path: "a/three", SeenAt: at(5)},
		{ID: 1, Path: "a/renamed", SeenAt: at(3)},
		{ID: 3, Path: "a/three", SeenAt: at(0)}, // late news do not make it older
	} {
		s.update(func(ctx context.Context, tx firerunner.Tx) error { return tx.SaveProject(ctx, p) })
	}
	one := firerunner.Project{ID: 1, Path: "a/renamed", SeenAt: at(3)}
	two := firerunner.Project{ID: 2, Path: "a/two", SeenAt: at(2)}
	three := firerunner.Project{ID: 3, Path: "a/three", SeenAt: at(5)}
	for _, test := range []struct {
		since time.Time
		want  []firerunner.Project
	}{
		{time.Time{}, []firerunner.Project{three, one, two}},
		{at(3), []firerunner.Project{three, one}},
		{at(3).Add(time.Nanosecond), []firerunner.Project{three}},
	} {
		got, err := s.Store.Projects(s.ctx(), test.since)
		require.NoError(s, err)
		require.Equal(s, test.want, got)
	}
}

func (s *suite) addEvents(all ...firerunner.Event) {
	s.Helper()
	s.update(func(ctx context.Context, tx firerunner.Tx) error {
		for _, e := range all {
			if err := tx.AddEvent(ctx, e); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *suite) eventsOK() {
	full := firerunner.Event{
		At: noon(), Kind: firerunner.EventMoved, RunnerID: "runner1", JobID: 1 << 50, ProjectID: 3, From: firerunner.Booting,
		To: firerunner.Ready, Took: 1234567891, Actor: "watch", Reason: firerunner.ReasonJobDone, Message: awkward,
	}
	s.addEvents(full, firerunner.Event{Kind: firerunner.EventDaemon}, full)
	s.addEvents(firerunner.Event{At: noon().Add(-time.Hour), Kind: firerunner.EventNotice}) // order is that of appending
	got, err := s.Store.Events(s.ctx(), firerunner.EventQuery{})
	require.NoError(s, err)
	require.Len(s, got, 4)
	for i, e := range got {
		require.Positive(s, e.ID)
		if i > 0 {
			require.Greater(s, e.ID, got[i-1].ID)
		}
	}
	full.ID = got[0].ID
	require.Equal(s, full, got[0])
	require.Equal(s, firerunner.EventNotice, got[3].Kind)
}

func (s *suite) eventQueries() {
	const many = 12
	for i := range many {
		e := firerunner.Event{At: noon(), Kind: firerunner.EventMoved, RunnerID: fmt.Sprint("runner", i%2), JobID: int64(i % 3), Message: fmt.Sprint(i)}
		if i%4 == 0 {
			e.Kind = firerunner.EventJobSeen
		}
		s.addEvents(e)
	}
	all, err := s.Store.Events(s.ctx(), firerunner.EventQuery{})
	require.NoError(s, err)
	require.Len(s, all, many)
	seen := []firerunner.EventKind{firerunner.EventJobSeen}
	for name, test := range map[string]struct {
		q    firerunner.EventQuery
		want []int
	}{
		"after":                 {firerunner.EventQuery{After: all[8].ID}, []int{9, 10, 11}},
		"after the last":        {firerunner.EventQuery{After: all[11].ID}, nil},
		"limited, oldest first": {firerunner.EventQuery{Limit: 2}, []int{0, 1}},
		"after, limited":        {firerunner.EventQuery{After: all[3].ID, Limit: 2}, []int{4, 5}},
		"runner":                {firerunner.EventQuery{RunnerID: "runner1"}, []int{1, 3, 5, 7, 9, 11}},
		"runner, after":         {firerunner.EventQuery{RunnerID: "runner1", After: all[6].ID, Limit: 2}, []int{7, 9}},
		"job":                   {firerunner.EventQuery{JobID: 2}, []int{2, 5, 8, 11}},
		"job and runner":        {firerunner.EventQuery{JobID: 2, RunnerID: "runner0"}, []int{2, 8}},
		"job, limited":          {firerunner.EventQuery{JobID: 2, Limit: 1}, []int{2}},
		"kinds":                 {firerunner.EventQuery{Kinds: seen}, []int{0, 4, 8}},
		"kinds, limited":        {firerunner.EventQuery{Kinds: seen, After: all[0].ID, Limit: 1}, []int{4}},
		"runner and kinds":      {firerunner.EventQuery{RunnerID: "runner0", Kinds: seen, Limit: 2}, []int{0, 4}},
		"kinds that are not":    {firerunner.EventQuery{Kinds: []firerunner.EventKind{firerunner.EventReaped}}, nil},
	} {
		got, err := s.Store.Events(s.ctx(), test.q)
		require.NoError(s, err, name)
		require.Len(s, got, len(test.want), name)
		for i, n := range test.want {
			require.Equal(s, all[n], got[i], name)
		}
	}
}

// textsOK: what is not a text to every engine is stored all the same, and reads the same from each.
func (s *suite) textsOK() {
	const odd, stored = "a\x00b\xffc", "a\uFFFDb\uFFFDc"
	r := runnerNumber(1)
	r.Message = odd
	s.create(r)
	got, err := s.Store.Runner(s.ctx(), r.ID)
	require.NoError(s, err)
	require.Equal(s, stored, got.Message)
	require.Equal(s, stored, s.saveJob(firerunner.Job{ID: 1, Name: odd, Ref: odd}).Name)
	s.saveHost(firerunner.Host{Name: "a", Trouble: odd})
	s.addEvents(firerunner.Event{Kind: firerunner.EventNotice, Message: odd})
	events, err := s.Store.Events(s.ctx(), firerunner.EventQuery{})
	require.NoError(s, err)
	require.Equal(s, stored, events[0].Message)
	s.update(func(ctx context.Context, tx firerunner.Tx) error {
		for _, fresh := range []bool{true, false} {
			took, err := tx.TakeDelivery(ctx, odd, noon())
			require.NoError(s, err)
			require.Equal(s, fresh, took)
		}
		return tx.SaveProject(ctx, firerunner.Project{ID: 1, Path: odd})
	})
}

func (s *suite) deliveryOK() {
	take := func(key string) (fresh bool) {
		s.update(func(ctx context.Context, tx firerunner.Tx) (err error) {
			fresh, err = tx.TakeDelivery(ctx, key, noon())
			return err
		})
		return fresh
	}
	require.True(s, take("a"))
	require.False(s, take("a"))
	require.True(s, take(awkward))
	require.False(s, take(awkward))
	s.update(func(ctx context.Context, tx firerunner.Tx) error { // within one transaction too
		first, err := tx.TakeDelivery(ctx, "b", noon())
		require.NoError(s, err)
		second, err := tx.TakeDelivery(ctx, "b", noon())
		require.True(s, first)
		require.False(s, second)
		return err
	})
}

func (s *suite) deliveryRace() {
	const keys, takers = 5, 16
	var fresh [keys]atomic.Int32
	var all sync.WaitGroup
	begin := make(chan struct{})
	for range takers {
		all.Go(func() {
			<-begin
			for k := range keys {
				var took bool
				err := s.Store.Update(s.ctx(), func(tx firerunner.Tx) (err error) {
					took, err = tx.TakeDelivery(s.ctx(), fmt.Sprint("key", k), noon())
					return err
				})
				if err != nil {
					s.Errorf("take a delivery: %v", err)
				}
				if took {
					fresh[k].Add(1)
				}
			}
		})
	}
	close(begin)
	all.Wait()
	for k := range keys {
		require.Equal(s, int32(1), fresh[k].Load(), "a delivery is fresh exactly once")
	}
}

// longTagsOK: a job with as many and as long tags as GitLab lets it have, and its runner, are found by them.
func (s *suite) longTagsOK() {
	random := rand.New(rand.NewPCG(1, 2)) // what repeats itself would be compressed
	sets := make([]firerunner.TagSet, 2)
	for i := range sets {
		tags := make([]string, 50)
		for j := range tags {
			tag := []byte("same beginning ")
			for j > 0 && len(tag) < 255 {
				tag = append(tag, byte('a'+random.IntN(26)))
			}
			tags[j] = string(tag)
		}
		sets[i] = firerunner.NewTagSet(tags...)
	}
	for i, tags := range sets {
		d := firerunner.Demand{ProjectID: 1, Tags: tags}
		r := runnerNumber(i)
		r.Demand = d
		job := firerunner.Job{ID: int64(i + 1), ProjectID: 1, Tags: tags, Status: firerunner.JobPending}
		s.update(func(ctx context.Context, tx firerunner.Tx) error {
			_, err := tx.SaveJob(ctx, job)
			return errors.Join(err, tx.CreateRunner(ctx, r), tx.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepDemand, ProjectID: 1, Tags: tags}))
		})
		jobs, err := s.Store.Jobs(s.ctx(), firerunner.JobQuery{Demand: &d, Statuses: []firerunner.JobStatus{firerunner.JobPending}})
		require.NoError(s, err)
		require.Equal(s, []firerunner.Job{job}, jobs)
		for _, q := range []firerunner.RunnerQuery{{Demand: &d, Live: true}, {Demand: &d, Limit: 5}} {
			runners, err := s.Store.Runners(s.ctx(), q)
			require.NoError(s, err)
			require.Equal(s, []firerunner.Runner{r}, runners)
		}
		require.Equal(s, tags, s.Steps()[i].Tags)
	}
}
