package sim

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

// memoryReader reads the rows, and above them what its transaction has written.
type memoryReader struct {
	m    *Memory
	over *rows // nil: outside of a transaction
}

func check(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "read the store: %w", err)
	}
	return nil
}

// above is what a transaction has written of one kind.
func above[K comparable, V any](r memoryReader, of func(*rows) map[K]*V) map[K]*V {
	if r.over == nil {
		return nil
	}
	return of(r.over)
}

func find[K comparable, V any](r memoryReader, of func(*rows) map[K]*V, key K) (found V, ok bool) {
	v, ok := above(r, of)[key]
	if !ok {
		r.m.mu.RLock()
		defer r.m.mu.RUnlock()
		v, ok = of(&r.m.rows)[key]
	}
	if ok {
		found = *v
	}
	return found, ok
}

func collect[K comparable, V any](r memoryReader, of func(*rows) map[K]*V, keep func(*V) bool) (found []V) {
	over := above(r, of)
	for _, v := range over {
		if keep(v) {
			found = append(found, *v)
		}
	}
	r.m.mu.RLock()
	defer r.m.mu.RUnlock()
	for k, v := range of(&r.m.rows) {
		if keep(v) {
			if _, newer := over[k]; !newer {
				found = append(found, *v)
			}
		}
	}
	return found
}

func runnersOf(r *rows) map[string]*firerunner.Runner  { return r.runners }
func jobsOf(r *rows) map[int64]*firerunner.Job         { return r.jobs }
func hostsOf(r *rows) map[string]*firerunner.Host      { return r.hosts }
func projectsOf(r *rows) map[int64]*firerunner.Project { return r.projects }

// Runner implements firerunner.Reader.
func (r memoryReader) Runner(ctx context.Context, id string) (firerunner.Runner, error) {
	if err := check(ctx); err != nil {
		return firerunner.Runner{}, err
	}
	if found, ok := find(r, runnersOf, id); ok {
		return found, nil
	}
	return firerunner.Runner{}, firerunner.Errorf(firerunner.NotFound, "there is no runner %q", id)
}

// Job implements firerunner.Reader.
func (r memoryReader) Job(ctx context.Context, id int64) (firerunner.Job, error) {
	if err := check(ctx); err != nil {
		return firerunner.Job{}, err
	}
	if found, ok := find(r, jobsOf, id); ok {
		return found, nil
	}
	return firerunner.Job{}, firerunner.Errorf(firerunner.NotFound, "there is no job %d", id)
}

// Runners implements firerunner.Reader.
func (r memoryReader) Runners(ctx context.Context, q firerunner.RunnerQuery) ([]firerunner.Runner, error) {
	if err := check(ctx); err != nil {
		return nil, err
	}
	found := collect(r, runnersOf, func(r *firerunner.Runner) bool {
		return (!q.Live || r.Live()) &&
			(q.Demand == nil || r.Demand == *q.Demand) &&
			(len(q.States) == 0 || slices.Contains(q.States, r.State)) &&
			(q.GitLabID == 0 || r.GitLabID == q.GitLabID) &&
			(q.JobID == 0 || r.JobID == q.JobID) &&
			(q.Overdue.IsZero() || r.Overdue(q.Overdue)) &&
			(q.Outcome == "" || r.Outcome == q.Outcome) &&
			!r.CreatedAt.Before(q.Since)
	})
	slices.SortFunc(found, func(a, b firerunner.Runner) int { return strings.Compare(a.ID, b.ID) })
	return latest(found, q.Limit), nil
}

// Jobs implements firerunner.Reader.
func (r memoryReader) Jobs(ctx context.Context, q firerunner.JobQuery) ([]firerunner.Job, error) {
	if err := check(ctx); err != nil {
		return nil, err
	}
	found := collect(r, jobsOf, func(j *firerunner.Job) bool {
		return (q.Demand == nil || j.Demand() == *q.Demand) &&
			(q.ProjectID == 0 || j.ProjectID == q.ProjectID) &&
			(len(q.Statuses) == 0 || slices.Contains(q.Statuses, j.Status)) &&
			(!q.OursOnly || j.Ours) &&
			(q.RunnerID == "" || j.RunnerID == q.RunnerID)
	})
	slices.SortFunc(found, func(a, b firerunner.Job) int { return cmp.Compare(a.ID, b.ID) })
	return latest(found, q.Limit), nil
}

// latest is the last ones first where there is a limit, and the list as it is where there is none.
func latest[T any](sorted []T, limit int) []T {
	if limit <= 0 {
		return sorted
	}
	slices.Reverse(sorted)
	return sorted[:min(limit, len(sorted))]
}

// Events implements firerunner.Reader.
func (r memoryReader) Events(ctx context.Context, q firerunner.EventQuery) ([]firerunner.Event, error) {
	if err := check(ctx); err != nil {
		return nil, err
	}
	var found []firerunner.Event
	add := func(all []firerunner.Event) {
		for _, e := range all {
			if e.ID > q.After && (q.RunnerID == "" || e.RunnerID == q.RunnerID) && (q.JobID == 0 || e.JobID == q.JobID) &&
				(len(q.Kinds) == 0 || slices.Contains(q.Kinds, e.Kind)) && (q.Limit <= 0 || len(found) < q.Limit) {
				found = append(found, e)
			}
		}
	}
	r.m.mu.RLock()
	defer r.m.mu.RUnlock()
	add(r.m.rows.events)
	if r.over != nil {
		add(r.over.events)
	}
	return found, nil
}

// Hosts implements firerunner.Reader.
func (r memoryReader) Hosts(ctx context.Context) ([]firerunner.Host, error) {
	if err := check(ctx); err != nil {
		return nil, err
	}
	found := collect(r, hostsOf, func(h *firerunner.Host) bool { return r.over == nil || !r.over.removed[h.Name] })
	for i := range found {
		found[i] = keptHost(found[i])
	}
	slices.SortFunc(found, func(a, b firerunner.Host) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

// Projects implements firerunner.Reader.
func (r memoryReader) Projects(ctx context.Context, since time.Time) ([]firerunner.Project, error) {
	if err := check(ctx); err != nil {
		return nil, err
	}
	found := collect(r, projectsOf, func(p *firerunner.Project) bool { return !p.SeenAt.Before(since) })
	slices.SortFunc(found, func(a, b firerunner.Project) int {
		return cmp.Or(b.SeenAt.Compare(a.SeenAt), cmp.Compare(a.ID, b.ID))
	})
	return found, nil
}
