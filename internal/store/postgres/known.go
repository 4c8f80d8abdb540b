package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/postgres/sqlc"
	"github.com/firerunner/firerunner/internal/store/row"
)

// known is the rows that a member has read or written. Nobody else writes before its transaction ends, so they are as the
// database has them, with what is pending.
type known struct {
	runners map[string]firerunner.Runner
	jobs    map[int64]firerunner.Job
	lists   [][]firerunner.Runner // read, and not in the map yet: most are never asked for again
	noJob   int64                 // the last one that is not there
}

// longList is how many rows a list may have to be kept: of a longer one, few are asked for again, and mostly they are remembered.
const longList = 256

func (k *known) runner(id string) (firerunner.Runner, bool) {
	if r, ok := k.runners[id]; ok {
		return r, true
	}
	for _, list := range k.lists {
		for _, r := range list {
			if _, newer := k.runners[r.ID]; !newer {
				k.keep(r)
			}
		}
	}
	k.lists = nil
	r, ok := k.runners[id]
	return r, ok
}

func (k *known) keep(r firerunner.Runner) {
	if k.runners == nil {
		k.runners = map[string]firerunner.Runner{}
	}
	k.runners[r.ID] = r
}

func (k *known) keepJob(j firerunner.Job) {
	if k.jobs == nil {
		k.jobs = map[int64]firerunner.Job{}
	}
	k.jobs[j.ID] = j
}

// Runner implements firerunner.Reader.
func (t *tx) Runner(ctx context.Context, id string) (firerunner.Runner, error) {
	if _, _, err := t.within(ctx); err != nil {
		return firerunner.Runner{}, err
	}
	if r, ok := t.known.runner(id); ok {
		return r, nil
	}
	if r, ok := t.store.memory.runners[id]; ok {
		return r, nil
	}
	if err := t.flushFor(ctx, func(p *pending) bool { return len(p.runners) > 0 && !t.store.memory.whole }); err != nil {
		return firerunner.Runner{}, err
	}
	r, err := t.reader.Runner(ctx, id)
	if err == nil {
		t.known.keep(r)
	}
	return r, err
}

// Job implements firerunner.Reader.
func (t *tx) Job(ctx context.Context, id int64) (firerunner.Job, error) {
	if _, _, err := t.within(ctx); err != nil {
		return firerunner.Job{}, err
	}
	if j, ok := t.known.jobs[id]; ok {
		return j, nil
	}
	if j, ok := t.store.memory.jobs[id]; ok {
		return j, nil
	}
	if t.known.noJob == id {
		return firerunner.Job{}, wrap(pgx.ErrNoRows, "read job %d", id)
	}
	if err := t.flushFor(ctx, func(p *pending) bool { return p.jobs && !t.store.memory.whole }); err != nil {
		return firerunner.Job{}, err
	}
	j, err := t.reader.Job(ctx, id)
	switch firerunner.CodeOf(err) {
	case "":
		t.known.keepJob(j)
	case firerunner.NotFound:
		t.known.noJob = id
	}
	return j, err
}

// Runners implements firerunner.Reader.
func (t *tx) Runners(ctx context.Context, q firerunner.RunnerQuery) ([]firerunner.Runner, error) {
	few := (q.GitLabID != 0 || q.JobID != 0) && t.store.memory.whole
	if err := t.flushFor(ctx, func(p *pending) bool { return len(p.runners) > 0 && !few }); err != nil {
		return nil, err
	}
	found, err := t.reader.Runners(ctx, q)
	if err == nil && few {
		found = t.withPending(found, q)
	}
	if len(found) <= longList {
		t.known.lists = append(t.known.lists, slices.Clone(found))
	}
	return found, err
}

// withPending is an answer of the database as it will be once it has been told what is pending. All of that is remembered.
func (t *tx) withPending(found []firerunner.Runner, q firerunner.RunnerQuery) []firerunner.Runner {
	for _, id := range slices.Concat(t.shared.pending.runners, t.pending.runners) {
		r, ok := t.known.runner(id)
		if !ok {
			r = t.store.memory.runners[id]
		}
		found = append(slices.DeleteFunc(found, func(old firerunner.Runner) bool { return old.ID == id }), r)
	}
	return row.SelectRunners(found, q)
}

// Jobs implements firerunner.Reader.
func (t *tx) Jobs(ctx context.Context, q firerunner.JobQuery) ([]firerunner.Job, error) {
	if err := t.flushFor(ctx, func(p *pending) bool { return p.jobs }); err != nil {
		return nil, err
	}
	return t.reader.Jobs(ctx, q)
}

// Events implements firerunner.Reader.
func (t *tx) Events(ctx context.Context, q firerunner.EventQuery) ([]firerunner.Event, error) {
	if err := t.flushFor(ctx, func(p *pending) bool { return len(p.events) > 0 }); err != nil {
		return nil, err
	}
	return t.reader.Events(ctx, q)
}

// Hosts implements firerunner.Reader.
func (t *tx) Hosts(ctx context.Context) ([]firerunner.Host, error) {
	if err := t.flushFor(ctx, func(p *pending) bool { return p.hosts }); err != nil {
		return nil, err
	}
	return t.reader.Hosts(ctx)
}

// Projects implements firerunner.Reader.
func (t *tx) Projects(ctx context.Context, since time.Time) ([]firerunner.Project, error) {
	if err := t.flushFor(ctx, func(p *pending) bool { return p.projects }); err != nil {
		return nil, err
	}
	return t.reader.Projects(ctx, since)
}

// SaveRunner implements firerunner.Tx. The database's own triggers keep state, outcome and desired from going back too.
func (t *tx) SaveRunner(ctx context.Context, r *firerunner.Runner) error {
	ctx, err := t.begin(ctx)
	if err != nil {
		return err
	}
	old, err := t.Runner(ctx, r.ID)
	if err != nil {
		return err
	}
	if err := row.CheckSave(old, *r); err != nil {
		return err
	}
	saved := row.FromRunner(*r)
	if err := t.pending.put(func(q *sqlc.Queries) error {
		_, err := q.RunnerUpdate(ctx, updateFromRow(saved))
		return err
	}, "save runner %q", r.ID); err != nil {
		return err
	}
	t.pending.saves++
	t.pending.runners = append(t.pending.runners, r.ID)
	if r.Address.IsValid() && (r.Address != old.Address || r.Host != old.Host) {
		if err := t.flush(false); err != nil { // whether it is another's is for the database to say
			return err
		}
	}
	r.Version++
	saved.Version++
	t.known.keep(saved.Runner())
	return nil
}

// SaveJob implements firerunner.Tx.
func (t *tx) SaveJob(ctx context.Context, seen firerunner.Job) (firerunner.Job, error) {
	old, err := t.Job(ctx, seen.ID)
	saves := int64(0)
	switch {
	case err == nil:
		seen, saves = old.Merge(seen), 1
	case firerunner.CodeOf(err) != firerunner.NotFound:
		return firerunner.Job{}, err
	}
	ctx, err = t.begin(ctx)
	if err != nil {
		return firerunner.Job{}, err
	}
	saved := row.FromJob(seen)
	if err := t.pending.put(func(q *sqlc.Queries) error {
		return q.JobUpsert(ctx, sqlc.JobUpsertParams(saved))
	}, "save job %d", seen.ID); err != nil {
		return firerunner.Job{}, err
	}
	t.pending.saves += saves
	t.pending.jobs = true
	t.known.keepJob(saved.Job())
	return saved.Job(), nil
}
