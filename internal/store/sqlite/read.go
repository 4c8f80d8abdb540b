package sqlite

import (
	"context"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/row"
	"github.com/firerunner/firerunner/internal/store/sqlite/sqlc"
)

// reader answers questions from the pool of readers, or from within a transaction.
type reader struct {
	q *sqlc.Queries
	// within prepares the context of each statement of a transaction; nil outside of one.
	within func(context.Context) (context.Context, error)
}

// begin is the first line of every statement.
func (r reader) begin(ctx context.Context) (context.Context, error) {
	if r.within == nil {
		return ctx, nil
	}
	return r.within(ctx)
}

// ask runs one query of a list and converts its rows.
func ask[Row, T any](ctx context.Context, r reader, what string, run func(context.Context) ([]Row, error), as func(Row) T) ([]T, error) {
	ctx, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := run(ctx)
	if err != nil {
		return nil, wrap(err, "read %s", what)
	}
	return row.Each(rows, as), nil
}

// Runner implements firerunner.Reader.
func (r reader) Runner(ctx context.Context, id string) (firerunner.Runner, error) {
	ctx, err := r.begin(ctx)
	if err != nil {
		return firerunner.Runner{}, err
	}
	found, err := r.q.Runner(ctx, id)
	if err != nil {
		return firerunner.Runner{}, wrap(err, "read runner %q", id)
	}
	return runnerFromRow(found), nil
}

// Job implements firerunner.Reader.
func (r reader) Job(ctx context.Context, id int64) (firerunner.Job, error) {
	ctx, err := r.begin(ctx)
	if err != nil {
		return firerunner.Job{}, err
	}
	found, err := r.q.Job(ctx, id)
	if err != nil {
		return firerunner.Job{}, wrap(err, "read job %d", id)
	}
	return jobFromRow(found), nil
}

// Runners implements firerunner.Reader.
func (r reader) Runners(ctx context.Context, q firerunner.RunnerQuery) ([]firerunner.Runner, error) {
	found, err := ask(ctx, r, "runners", func(ctx context.Context) ([]sqlc.Runner, error) {
		switch {
		case q.GitLabID != 0:
			return r.q.RunnersByGitLabID(ctx, q.GitLabID)
		case q.JobID != 0:
			return r.q.RunnersOfJob(ctx, q.JobID)
		case row.OnlyQueued(q):
			return r.q.RunnersQueued(ctx)
		case !q.Overdue.IsZero():
			return r.q.RunnersOverdue(ctx, row.MicrosUp(q.Overdue))
		case row.OnlyLive(q) && q.Demand != nil:
			return r.q.RunnersLiveOf(ctx, sqlc.RunnersLiveOfParams{ProjectID: q.Demand.ProjectID, Tags: string(q.Demand.Tags)})
		case row.OnlyLive(q):
			return r.q.RunnersLive(ctx)
		case !q.Since.IsZero():
			return r.q.RunnersSince(ctx, row.MicrosUp(q.Since))
		}
		if row.OnlyLatestOf(q) {
			return r.q.RunnersLatestOf(ctx, sqlc.RunnersLatestOfParams{ProjectID: q.Demand.ProjectID, Tags: string(q.Demand.Tags), Most: int64(q.Limit)})
		}
		p := sqlc.RunnersLatestParams{
			AnyDemand:  row.Bit(q.Demand == nil),
			AnyOutcome: row.Bit(q.Outcome == ""),
			Outcome:    string(q.Outcome),
			States:     row.List(q.States, func(s firerunner.State) int64 { return int64(s) }),
			Most:       row.Most(q.Limit),
		}
		if q.Demand != nil {
			p.ProjectID, p.Tags = q.Demand.ProjectID, string(q.Demand.Tags)
		}
		return r.q.RunnersLatest(ctx, p)
	}, runnerFromRow)
	if err != nil {
		return nil, err
	}
	return row.SelectRunners(found, q), nil
}

// Jobs implements firerunner.Reader.
func (r reader) Jobs(ctx context.Context, q firerunner.JobQuery) ([]firerunner.Job, error) {
	found, err := ask(ctx, r, "jobs", func(ctx context.Context) ([]sqlc.Job, error) {
		switch {
		case q.RunnerID != "":
			return r.q.JobsByRunner(ctx, q.RunnerID)
		case row.OnlyOpen(q) && q.Demand != nil:
			return r.q.JobsOpenOf(ctx, sqlc.JobsOpenOfParams{ProjectID: q.Demand.ProjectID, Tags: string(q.Demand.Tags)})
		case row.OnlyOpen(q):
			return r.q.JobsOpen(ctx)
		}
		p := sqlc.JobsLatestParams{
			AnyDemand:  row.Bit(q.Demand == nil),
			AnyProject: row.Bit(q.ProjectID == 0),
			ProjectID:  q.ProjectID,
			AnyOwner:   row.Bit(!q.OursOnly),
			Statuses:   row.List(q.Statuses, func(s firerunner.JobStatus) string { return string(s) }),
			Most:       row.Most(q.Limit),
		}
		if q.Demand != nil {
			p.DemandProjectID, p.Tags = q.Demand.ProjectID, string(q.Demand.Tags)
		}
		return r.q.JobsLatest(ctx, p)
	}, jobFromRow)
	if err != nil {
		return nil, err
	}
	return row.SelectJobs(found, q), nil
}

// Events implements firerunner.Reader.
func (r reader) Events(ctx context.Context, q firerunner.EventQuery) ([]firerunner.Event, error) {
	found, err := ask(ctx, r, "events", func(ctx context.Context) ([]sqlc.Event, error) {
		switch {
		case q.RunnerID != "":
			return r.q.EventsOfRunner(ctx, sqlc.EventsOfRunnerParams{RunnerID: q.RunnerID, After: q.After})
		case q.JobID != 0:
			return r.q.EventsOfJob(ctx, sqlc.EventsOfJobParams{JobID: q.JobID, After: q.After})
		}
		return r.q.EventsAfter(ctx, sqlc.EventsAfterParams{
			After: q.After,
			Kinds: row.List(q.Kinds, func(k firerunner.EventKind) string { return string(k) }),
			Most:  row.Most(q.Limit),
		})
	}, eventFromRow)
	if err != nil {
		return nil, err
	}
	return row.SelectEvents(found, q), nil
}

// Hosts implements firerunner.Reader.
func (r reader) Hosts(ctx context.Context) ([]firerunner.Host, error) {
	return ask(ctx, r, "hosts", r.q.Hosts, hostFromRow)
}

// Projects implements firerunner.Reader.
func (r reader) Projects(ctx context.Context, since time.Time) ([]firerunner.Project, error) {
	return ask(ctx, r, "projects", func(ctx context.Context) ([]sqlc.Project, error) {
		return r.q.ProjectsSince(ctx, row.MicrosUp(since))
	}, projectFromRow)
}

func runnerFromRow(r sqlc.Runner) firerunner.Runner    { return row.Runner(r).Runner() }
func jobFromRow(r sqlc.Job) firerunner.Job             { return row.Job(r).Job() }
func eventFromRow(r sqlc.Event) firerunner.Event       { return row.Event(r).Event() }
func hostFromRow(r sqlc.Host) firerunner.Host          { return row.Host(r).Host() }
func projectFromRow(r sqlc.Project) firerunner.Project { return row.Project(r).Project() }
