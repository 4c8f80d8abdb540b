package sqlite

import (
	"context"
	"time"

	"github.com/firerunner/firerunner"
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
	return each(rows, as), nil
}

// Runner implements firerunner.Reader.
func (r reader) Runner(ctx context.Context, id string) (firerunner.Runner, error) {
	ctx, err := r.begin(ctx)
	if err != nil {
		return firerunner.Runner{}, err
	}
	row, err := r.q.Runner(ctx, id)
	if err != nil {
		return firerunner.Runner{}, wrap(err, "read runner %q", id)
	}
	return runnerFromRow(row), nil
}

// Job implements firerunner.Reader.
func (r reader) Job(ctx context.Context, id int64) (firerunner.Job, error) {
	ctx, err := r.begin(ctx)
	if err != nil {
		return firerunner.Job{}, err
	}
	row, err := r.q.Job(ctx, id)
	if err != nil {
		return firerunner.Job{}, wrap(err, "read job %d", id)
	}
	return jobFromRow(row), nil
}

// Runners implements firerunner.Reader.
func (r reader) Runners(ctx context.Context, q firerunner.RunnerQuery) ([]firerunner.Runner, error) {
	found, err := ask(ctx, r, "runners", func(ctx context.Context) ([]sqlc.Runner, error) {
		switch {
		case q.GitLabID != 0:
			return r.q.RunnersByGitLabID(ctx, q.GitLabID)
		case onlyLive(q) && q.Demand != nil:
			return r.q.RunnersLiveOf(ctx, sqlc.RunnersLiveOfParams{ProjectID: q.Demand.ProjectID, Tags: string(q.Demand.Tags)})
		case onlyLive(q):
			return r.q.RunnersLive(ctx)
		case !q.Since.IsZero():
			return r.q.RunnersSince(ctx, microsUp(q.Since))
		}
		p := sqlc.RunnersLatestParams{
			AnyDemand:  bit(q.Demand == nil),
			AnyOutcome: bit(q.Outcome == ""),
			Outcome:    string(q.Outcome),
			States:     list(q.States, func(s firerunner.State) int64 { return int64(s) }),
			Most:       most(q.Limit),
		}
		if q.Demand != nil {
			p.ProjectID, p.Tags = q.Demand.ProjectID, string(q.Demand.Tags)
		}
		return r.q.RunnersLatest(ctx, p)
	}, runnerFromRow)
	if err != nil {
		return nil, err
	}
	return selectRunners(found, q), nil
}

// Jobs implements firerunner.Reader.
func (r reader) Jobs(ctx context.Context, q firerunner.JobQuery) ([]firerunner.Job, error) {
	found, err := ask(ctx, r, "jobs", func(ctx context.Context) ([]sqlc.Job, error) {
		switch {
		case q.RunnerID != "":
			return r.q.JobsByRunner(ctx, q.RunnerID)
		case onlyOpen(q) && q.Demand != nil:
			return r.q.JobsOpenOf(ctx, sqlc.JobsOpenOfParams{ProjectID: q.Demand.ProjectID, Tags: string(q.Demand.Tags)})
		case onlyOpen(q):
			return r.q.JobsOpen(ctx)
		}
		p := sqlc.JobsLatestParams{
			AnyDemand:  bit(q.Demand == nil),
			AnyProject: bit(q.ProjectID == 0),
			ProjectID:  q.ProjectID,
			AnyOwner:   bit(!q.OursOnly),
			Statuses:   list(q.Statuses, func(s firerunner.JobStatus) string { return string(s) }),
			Most:       most(q.Limit),
		}
		if q.Demand != nil {
			p.DemandProjectID, p.Tags = q.Demand.ProjectID, string(q.Demand.Tags)
		}
		return r.q.JobsLatest(ctx, p)
	}, jobFromRow)
	if err != nil {
		return nil, err
	}
	return selectJobs(found, q), nil
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
			Kinds: list(q.Kinds, func(k firerunner.EventKind) string { return string(k) }),
			Most:  most(q.Limit),
		})
	}, eventFromRow)
	if err != nil {
		return nil, err
	}
	return selectEvents(found, q), nil
}

// Hosts implements firerunner.Reader.
func (r reader) Hosts(ctx context.Context) ([]firerunner.Host, error) {
	return ask(ctx, r, "hosts", r.q.Hosts, hostFromRow)
}

// Projects implements firerunner.Reader.
func (r reader) Projects(ctx context.Context, since time.Time) ([]firerunner.Project, error) {
	return ask(ctx, r, "projects", func(ctx context.Context) ([]sqlc.Project, error) {
		return r.q.ProjectsSince(ctx, microsUp(since))
	}, projectFromRow)
}
