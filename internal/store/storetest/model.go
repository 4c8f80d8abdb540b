package storetest

import (
	"maps"
	"slices"

	"github.com/firerunner/firerunner"
)

// model is a store in memory, simple enough to be right.
type model struct {
	runners    map[string]firerunner.Runner
	jobs       map[int64]firerunner.Job
	projects   map[int64]firerunner.Project
	hosts      map[string]firerunner.Host
	deliveries map[string]bool
	events     []firerunner.Event // without IDs
	steps      []firerunner.Step
}

func newModel() model {
	return model{
		map[string]firerunner.Runner{},
		map[int64]firerunner.Job{},
		map[int64]firerunner.Project{},
		map[string]firerunner.Host{},
		map[string]bool{},
		nil, nil,
	}
}

func (m model) clone() model {
	return model{
		maps.Clone(m.runners), maps.Clone(m.jobs), maps.Clone(m.projects), maps.Clone(m.hosts), maps.Clone(m.deliveries),
		slices.Clone(m.events), slices.Clone(m.steps),
	}
}

// addressTaken reports whether another live runner of the same host has the runner's address.
func (m model) addressTaken(r firerunner.Runner) bool {
	for id, other := range m.runners {
		if id != r.ID && r.Live() && other.Live() && r.Address.IsValid() && r.Address == other.Address && r.Host == other.Host {
			return true
		}
	}
	return false
}

// carries reports whether a live runner is on the host.
func (m model) carries(host string) bool {
	for _, r := range m.runners {
		if r.Host == host && r.Live() {
			return true
		}
	}
	return false
}

func orNil[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return s
}

func latest[T any](sorted []T, limit int) []T {
	if limit > 0 {
		slices.Reverse(sorted)
		sorted = sorted[:min(limit, len(sorted))]
	}
	return orNil(sorted)
}

func (m model) wantRunners(q firerunner.RunnerQuery) []firerunner.Runner {
	var want []firerunner.Runner
	for _, id := range slices.Sorted(maps.Keys(m.runners)) {
		r := m.runners[id]
		switch {
		case q.Live && !r.Live(), q.Demand != nil && *q.Demand != r.Demand, len(q.States) > 0 && !slices.Contains(q.States, r.State),
			q.GitLabID != 0 && q.GitLabID != r.GitLabID, q.JobID != 0 && q.JobID != r.JobID, !q.Overdue.IsZero() && !r.Overdue(q.Overdue),
			q.Outcome != "" && q.Outcome != r.Outcome, r.CreatedAt.Before(q.Since):
		default:
			want = append(want, r)
		}
	}
	return latest(want, q.Limit)
}

func (m model) wantJobs(q firerunner.JobQuery) []firerunner.Job {
	var want []firerunner.Job
	for _, id := range slices.Sorted(maps.Keys(m.jobs)) {
		j := m.jobs[id]
		switch {
		case q.Demand != nil && *q.Demand != j.Demand(), q.ProjectID != 0 && q.ProjectID != j.ProjectID, q.OursOnly && !j.Ours,
			len(q.Statuses) > 0 && !slices.Contains(q.Statuses, j.Status), q.RunnerID != "" && q.RunnerID != j.RunnerID:
		default:
			want = append(want, j)
		}
	}
	return latest(want, q.Limit)
}

func wantEvents(all []firerunner.Event, q firerunner.EventQuery) []firerunner.Event {
	var want []firerunner.Event
	for _, e := range all {
		if e.ID > q.After && (q.RunnerID == "" || q.RunnerID == e.RunnerID) && (q.JobID == 0 || q.JobID == e.JobID) {
			want = append(want, e)
		}
	}
	if q.Limit > 0 && len(want) > q.Limit {
		want = want[:q.Limit]
	}
	return want
}
