package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firerunner/firerunner"
)

// random runs random transactions, some of which fail, on the store and on the model, and compares.
func (s *suite) random(open func(t *testing.T) Subject) {
	// A new store costs more than what is done with it, so one check in five is enough; -rapid.checks=1000 does more. After a
	// failure each counts: that is rapid looking for the smallest that fails.
	checks, failed := -1, false
	rapid.Check(s.T, func(t *rapid.T) {
		if checks++; checks%5 != 0 && !failed {
			return
		}
		defer func() { failed = failed || t.Failed() }()
		subject := open(s.T)
		defer func() { require.NoError(t, subject.Store.Close()) }()
		known := newModel()
		t.Repeat(map[string]func(*rapid.T){
			"update": func(t *rapid.T) { randomUpdate(t, subject.Store, &known) },
			"group": func(t *rapid.T) {
				if subject.Together == nil {
					t.Skip("nothing to do here for this store")
				}
				randomGroup(t, subject.Together, &known)
			},
			"": func(t *rapid.T) { compare(t, subject, known) },
		})
	})
}

func randomUpdate(t *rapid.T, store firerunner.Store, known *model) {
	var p part
	err := store.Update(context.Background(), func(tx firerunner.Tx) error { return p.random(t, tx, known) })
	p.check(t, err)
}

// randomGroup is several random transactions that come together.
func randomGroup(t *rapid.T, together func(n int, do func(i int, tx firerunner.Tx) error) []error, known *model) {
	parts := make([]part, rapid.IntRange(2, 6).Draw(t, "together"))
	var given any // rapid gives a course up by a panic, which is for this goroutine
	errs := together(len(parts), func(i int, tx firerunner.Tx) (err error) {
		defer func() {
			if p := recover(); p != nil {
				given, err = p, errOnPurpose
			}
		}()
		if given != nil {
			return errOnPurpose
		}
		return parts[i].random(t, tx, known)
	})
	if given != nil {
		panic(given)
	}
	for i, err := range errs {
		parts[i].check(t, err)
	}
}

// part is what became of a random transaction.
type part struct{ fails, refused bool }

// random does random things on the store and on the model, which has what was committed and keeps what is.
func (p *part) random(t *rapid.T, tx firerunner.Tx, known *model) error {
	next := known.clone()
	p.fails = rapid.IntRange(0, 4).Draw(t, "fails") == 0
	for range rapid.IntRange(1, 5).Draw(t, "operations") {
		switch err := randomOperation(t, tx, &next); {
		case errors.Is(err, errToldLater):
			p.refused = true
			return nil
		case err != nil:
			p.refused = true // what a store does with the rest of a transaction is its own business: give it up
			return err
		}
	}
	if p.fails {
		return errOnPurpose
	}
	*known = next
	return nil
}

func (p *part) check(t *rapid.T, err error) {
	switch {
	case p.refused:
		require.Error(t, err)
		require.NotErrorIs(t, err, errToldLater)
	case p.fails:
		require.ErrorIs(t, err, errOnPurpose)
	default:
		require.NoError(t, err)
	}
}

// errToldLater says that a write was not refused yet, and that Update has to refuse it.
var errToldLater = errors.New("told later")

// randomOperation does one thing on both. It returns the error of one that had to be refused, and was.
func randomOperation(t *rapid.T, tx firerunner.Tx, m *model) error {
	ctx := context.Background()
	switch rapid.SampledFrom([]string{"create", "save", "save", "save", "job", "job", "project", "host", "host removed", "event", "delivery", "step", "read", "read", "read"}).Draw(t, "operation") {
	case "create":
		r := drawRunner(t)
		err := tx.CreateRunner(ctx, r)
		if _, taken := m.runners[r.ID]; taken || m.addressTaken(r) {
			if err == nil {
				return errToldLater
			}
			require.Equal(t, firerunner.Conflict, firerunner.CodeOf(err))
			return err
		}
		require.NoError(t, err)
		m.runners[r.ID] = r
	case "save":
		return randomSave(t, tx, m)
	case "job":
		j := drawJob(t)
		want := j
		if old, there := m.jobs[j.ID]; there {
			want = old.Merge(j)
		}
		got, err := tx.SaveJob(ctx, j)
		require.NoError(t, err)
		require.Equal(t, want, got)
		m.jobs[j.ID] = want
	case "project":
		p := firerunner.Project{ID: rapid.Int64Range(1, 3).Draw(t, "project"), Path: "a/b", SeenAt: drawTime(t)}
		require.NoError(t, tx.SaveProject(ctx, p))
		if old := m.projects[p.ID]; old.SeenAt.After(p.SeenAt) {
			p.SeenAt = old.SeenAt
		}
		m.projects[p.ID] = p
	case "host":
		h := firerunner.Host{Name: drawHost(t), Lost: rapid.Bool().Draw(t, "lost"), Slots: rapid.IntRange(0, 9).Draw(t, "slots"), Draining: rapid.Bool().Draw(t, "draining")}
		require.NoError(t, tx.SaveHost(ctx, h))
		m.hosts[h.Name] = h
	case "host removed":
		name := drawHost(t)
		err := tx.RemoveHost(ctx, name)
		if _, there := m.hosts[name]; !there {
			require.Equal(t, firerunner.NotFound, firerunner.CodeOf(err))
			return err
		}
		if m.carries(name) {
			require.Equal(t, firerunner.Conflict, firerunner.CodeOf(err))
			return err
		}
		require.NoError(t, err)
		delete(m.hosts, name)
	case "event":
		e := drawEvent(t)
		require.NoError(t, tx.AddEvent(ctx, e))
		m.events = append(m.events, e)
	case "delivery":
		key := rapid.SampledFrom([]string{"k1", "k2", "k3"}).Draw(t, "key")
		fresh, err := tx.TakeDelivery(ctx, key, noon())
		require.NoError(t, err)
		require.Equal(t, !m.deliveries[key], fresh)
		m.deliveries[key] = true
	case "read":
		randomRead(t, tx, m)
	case "step":
		// No two are alike: a queue may merge those that are.
		step := firerunner.Step{Kind: firerunner.StepReadJob, ProjectID: 1, JobID: int64(len(m.steps)) + 1}
		require.NoError(t, tx.Enqueue(ctx, step))
		m.steps = append(m.steps, step)
	}
	return nil
}

// randomRead asks within a transaction: it sees what it wrote, and all that was committed before it began.
func randomRead(t *rapid.T, tx firerunner.Tx, m *model) {
	ctx := context.Background()
	switch rapid.SampledFrom([]string{"runner", "job", "runners", "jobs", "hosts", "events"}).Draw(t, "what") {
	case "runner":
		id := drawRunner(t).ID
		got, err := tx.Runner(ctx, id)
		if want, there := m.runners[id]; there {
			require.NoError(t, err)
			require.Equal(t, want, got)
		} else {
			require.Equal(t, firerunner.NotFound, firerunner.CodeOf(err))
		}
	case "job":
		id := drawJob(t).ID
		got, err := tx.Job(ctx, id)
		if want, there := m.jobs[id]; there {
			require.NoError(t, err)
			require.Equal(t, want, got)
		} else {
			require.Equal(t, firerunner.NotFound, firerunner.CodeOf(err))
		}
	case "runners":
		q := firerunner.RunnerQuery{
			Live: rapid.Bool().Draw(t, "live"), GitLabID: rapid.Int64Range(0, 3).Draw(t, "gitlab"), JobID: rapid.SampledFrom([]int64{0, 0, 1}).Draw(t, "took"),
		}
		got, err := tx.Runners(ctx, q)
		require.NoError(t, err)
		require.Equal(t, m.wantRunners(q), orNil(got))
		for i := range got {
			got[i] = firerunner.Runner{} // the caller's own
		}
	case "jobs":
		got, err := tx.Jobs(ctx, firerunner.JobQuery{})
		require.NoError(t, err)
		require.Equal(t, m.wantJobs(firerunner.JobQuery{}), orNil(got))
	case "hosts":
		got, err := tx.Hosts(ctx)
		require.NoError(t, err)
		require.Len(t, got, len(m.hosts))
		for _, h := range got {
			require.Equal(t, m.hosts[h.Name], h)
		}
	case "events":
		got, err := tx.Events(ctx, firerunner.EventQuery{})
		require.NoError(t, err)
		require.Len(t, got, len(m.events))
	}
}

// randomSave saves a runner that may not be there, be stale, or try to go back.
func randomSave(t *rapid.T, tx firerunner.Tx, m *model) error {
	r := drawRunner(t)
	old, there := m.runners[r.ID]
	r.Version = old.Version
	if rapid.IntRange(0, 5).Draw(t, "stale") == 0 {
		r.Version--
	}
	if rapid.Bool().Draw(t, "forward") {
		r.State = max(r.State, old.State)
		if old.Outcome != "" {
			r.Outcome = old.Outcome
		}
		if old.Desired == firerunner.Unwanted {
			r.Desired = old.Desired
		}
	}
	version := r.Version
	err := tx.SaveRunner(context.Background(), &r)
	switch {
	case !there:
		require.Equal(t, firerunner.NotFound, firerunner.CodeOf(err))
		return err
	case version != old.Version, m.addressTaken(r), r.State < old.State, old.Outcome != "" && r.Outcome != old.Outcome,
		old.Desired == firerunner.Unwanted && r.Desired != firerunner.Unwanted:
		require.Equal(t, firerunner.Conflict, firerunner.CodeOf(err))
		require.Equal(t, version, r.Version)
		return err
	}
	require.NoError(t, err)
	require.Equal(t, version+1, r.Version)
	m.runners[r.ID] = r
	return nil
}

func drawTime(t *rapid.T) time.Time {
	if rapid.IntRange(0, 5).Draw(t, "zero") == 0 {
		return time.Time{}
	}
	return noon().Add(time.Duration(rapid.IntRange(-3, 3).Draw(t, "seconds")) * time.Second)
}

func drawDemand(t *rapid.T) firerunner.Demand {
	return firerunner.Demand{
		ProjectID: rapid.Int64Range(1, 2).Draw(t, "project"),
		Tags:      rapid.SampledFrom([]firerunner.TagSet{"", "a", "a,b"}).Draw(t, "tags"),
	}
}

func drawRunner(t *rapid.T) firerunner.Runner {
	return firerunner.Runner{
		ID:      fmt.Sprint("runner", rapid.IntRange(1, 6).Draw(t, "runner")),
		Demand:  drawDemand(t),
		State:   rapid.SampledFrom(firerunner.States()).Draw(t, "state"),
		Desired: rapid.SampledFrom([]firerunner.Desired{firerunner.Wanted, firerunner.Unwanted}).Draw(t, "desired"),
		Outcome: rapid.SampledFrom([]firerunner.Outcome{"", firerunner.Failed, firerunner.Rejected}).Draw(t, "outcome"),
		Message: drawText(t, "message"),
		Host:    drawHost(t), Controller: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "controller"),
		Address:  rapid.SampledFrom([]netip.Addr{{}, {}, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}).Draw(t, "address"),
		GitLabID: rapid.Int64Range(0, 3).Draw(t, "gitlab"), CreatedAt: drawTime(t), Deadline: drawTime(t),
	}
}

// drawText leaves out what becomes another text in a store: see textsOK.
func drawText(t *rapid.T, label string) string {
	return strings.ReplaceAll(rapid.String().Draw(t, label), "\x00", "")
}

func drawHost(t *rapid.T) string { return rapid.SampledFrom([]string{"a", "b"}).Draw(t, "host") }

func drawJob(t *rapid.T) firerunner.Job {
	d := drawDemand(t)
	return firerunner.Job{
		ID: rapid.Int64Range(1, 6).Draw(t, "job"), ProjectID: d.ProjectID, Tags: d.Tags, Name: drawText(t, "name"),
		Status: rapid.SampledFrom([]firerunner.JobStatus{
			"created", firerunner.JobPending, firerunner.JobRunning, firerunner.JobCanceling, firerunner.JobSuccess, firerunner.JobFailed,
		}).Draw(t, "status"),
		Ours: rapid.Bool().Draw(t, "ours"), RunnerID: rapid.SampledFrom([]string{"", "runner1", "runner2"}).Draw(t, "by"),
		StartedAt: drawTime(t), SeenAt: drawTime(t),
	}
}

func drawEvent(t *rapid.T) firerunner.Event {
	return firerunner.Event{
		At: drawTime(t), Kind: rapid.SampledFrom([]firerunner.EventKind{firerunner.EventMoved, firerunner.EventNotice}).Draw(t, "kind"),
		RunnerID: rapid.SampledFrom([]string{"", "runner1", "runner2"}).Draw(t, "runner"), JobID: rapid.Int64Range(0, 2).Draw(t, "job"),
		Took: time.Duration(rapid.Int64().Draw(t, "took")), Message: drawText(t, "message"),
	}
}

// compare asks the same of both.
func compare(t *rapid.T, subject Subject, known model) {
	ctx := context.Background()
	limit := rapid.IntRange(0, 4).Draw(t, "limit")
	var demand *firerunner.Demand
	if rapid.Bool().Draw(t, "by demand") {
		d := drawDemand(t)
		demand = &d
	}

	rq := firerunner.RunnerQuery{
		Live: rapid.Bool().Draw(t, "live"), Demand: demand, Limit: limit,
		States:   rapid.SliceOfN(rapid.SampledFrom(firerunner.States()), 0, 3).Draw(t, "states"),
		GitLabID: rapid.Int64Range(0, 2).Draw(t, "gitlab"), JobID: rapid.SampledFrom([]int64{0, 0, 1, 2}).Draw(t, "took"), Overdue: drawTime(t), Since: drawTime(t),
		Outcome: rapid.SampledFrom([]firerunner.Outcome{"", "", firerunner.Failed}).Draw(t, "outcome"),
	}
	runners, err := subject.Store.Runners(ctx, rq)
	require.NoError(t, err)
	require.Equal(t, known.wantRunners(rq), orNil(runners), "%+v", rq)

	jq := firerunner.JobQuery{
		Demand: demand, ProjectID: rapid.Int64Range(0, 2).Draw(t, "of project"), OursOnly: rapid.Bool().Draw(t, "ours"), Limit: limit,
		Statuses: rapid.SliceOfN(rapid.SampledFrom([]firerunner.JobStatus{firerunner.JobPending, firerunner.JobSuccess, "created"}), 0, 2).Draw(t, "statuses"),
		RunnerID: rapid.SampledFrom([]string{"", "", "runner1"}).Draw(t, "by"),
	}
	jobs, err := subject.Store.Jobs(ctx, jq)
	require.NoError(t, err)
	require.Equal(t, known.wantJobs(jq), orNil(jobs), "%+v", jq)

	events, err := subject.Store.Events(ctx, firerunner.EventQuery{})
	require.NoError(t, err)
	for i := range events {
		require.True(t, i == 0 || events[i].ID > events[i-1].ID)
	}
	eq := firerunner.EventQuery{RunnerID: rapid.SampledFrom([]string{"", "runner1"}).Draw(t, "runner"), JobID: rapid.Int64Range(0, 2).Draw(t, "job"), Limit: limit}
	if len(events) > 0 {
		eq.After = rapid.SampledFrom(events).Draw(t, "after").ID
	}
	some, err := subject.Store.Events(ctx, eq)
	require.NoError(t, err)
	require.Equal(t, wantEvents(events, eq), orNil(some), "%+v", eq)
	for i := range events {
		events[i].ID = 0
	}
	require.Equal(t, known.events, orNil(events))
	require.Equal(t, known.steps, orNil(subject.Steps()))

	hosts, err := subject.Store.Hosts(ctx)
	require.NoError(t, err)
	require.Equal(t, orNil(slices.SortedFunc(maps.Values(known.hosts), func(a, b firerunner.Host) int { return strings.Compare(a.Name, b.Name) })), orNil(hosts))
	since := drawTime(t)
	projects, err := subject.Store.Projects(ctx, since)
	require.NoError(t, err)
	want := 0
	for _, p := range known.projects {
		if !p.SeenAt.Before(since) {
			want++
		}
	}
	require.Len(t, projects, want)
	for i, p := range projects {
		require.Equal(t, known.projects[p.ID], p)
		require.True(t, i == 0 || !p.SeenAt.After(projects[i-1].SeenAt))
	}
	_, err = subject.Store.Runner(ctx, "nobody")
	require.Equal(t, firerunner.NotFound, firerunner.CodeOf(err), "%v", err)
}
