package row

import (
	"cmp"
	"slices"
	"strings"

	"github.com/firerunner/firerunner"
)

// What an index does not answer is answered here: the ways in (query.sql) return few rows, except where a LIMIT goes
// with the whole table, and there the database has filtered already and this finds nothing to leave out.

// Most is a LIMIT: -1 is none.
func Most(limit int) int64 {
	if limit <= 0 {
		return -1
	}
	return int64(limit)
}

// OnlyLive reports whether no runner that is Gone can be an answer. Live runners are few; the gone ones are all that
// ever were.
func OnlyLive(q firerunner.RunnerQuery) bool {
	gone := func(s firerunner.State) bool { return s >= firerunner.Gone }
	return q.Live || !q.Overdue.IsZero() || (len(q.States) > 0 && !slices.ContainsFunc(q.States, gone))
}

// OnlyQueued reports whether only runners that wait for a host can be an answer.
func OnlyQueued(q firerunner.RunnerQuery) bool {
	return len(q.States) == 1 && q.States[0] == firerunner.Queued
}

// OnlyLatestOf reports whether the question is for the latest of one demand and nothing else.
func OnlyLatestOf(q firerunner.RunnerQuery) bool {
	return q.Demand != nil && q.Limit > 0 && len(q.States) == 0 && q.Outcome == "" && q.Since.IsZero()
}

// OnlyOpen reports whether no job that has ended can be an answer.
func OnlyOpen(q firerunner.JobQuery) bool {
	return len(q.Statuses) > 0 && !slices.ContainsFunc(q.Statuses, firerunner.JobStatus.Final)
}

// SelectRunners leaves out what the question did not ask for, and sorts.
func SelectRunners(found []firerunner.Runner, q firerunner.RunnerQuery) []firerunner.Runner {
	found = slices.DeleteFunc(found, func(r firerunner.Runner) bool {
		return q.Live && !r.Live() ||
			q.Demand != nil && r.Demand != *q.Demand ||
			len(q.States) > 0 && !slices.Contains(q.States, r.State) ||
			q.GitLabID != 0 && r.GitLabID != q.GitLabID ||
			q.JobID != 0 && r.JobID != q.JobID ||
			!q.Overdue.IsZero() && !r.Overdue(q.Overdue) ||
			q.Outcome != "" && r.Outcome != q.Outcome ||
			r.CreatedAt.Before(q.Since)
	})
	slices.SortFunc(found, func(a, b firerunner.Runner) int { return strings.Compare(a.ID, b.ID) })
	return latest(found, q.Limit)
}

// SelectJobs does the same for jobs.
func SelectJobs(found []firerunner.Job, q firerunner.JobQuery) []firerunner.Job {
	found = slices.DeleteFunc(found, func(j firerunner.Job) bool {
		return q.Demand != nil && j.Demand() != *q.Demand ||
			q.ProjectID != 0 && j.ProjectID != q.ProjectID ||
			len(q.Statuses) > 0 && !slices.Contains(q.Statuses, j.Status) ||
			q.OursOnly && !j.Ours ||
			q.RunnerID != "" && j.RunnerID != q.RunnerID
	})
	slices.SortFunc(found, func(a, b firerunner.Job) int { return cmp.Compare(a.ID, b.ID) })
	return latest(found, q.Limit)
}

// SelectEvents does the same for events, which come sorted.
func SelectEvents(found []firerunner.Event, q firerunner.EventQuery) []firerunner.Event {
	found = slices.DeleteFunc(found, func(e firerunner.Event) bool {
		return e.ID <= q.After ||
			q.RunnerID != "" && e.RunnerID != q.RunnerID ||
			q.JobID != 0 && e.JobID != q.JobID ||
			len(q.Kinds) > 0 && !slices.Contains(q.Kinds, e.Kind)
	})
	if q.Limit > 0 && len(found) > q.Limit {
		found = found[:q.Limit]
	}
	return found
}

// latest gives the last limit of a sorted list, the last first; without a limit the list as it is.
func latest[T any](sorted []T, limit int) []T {
	if limit <= 0 {
		return sorted
	}
	slices.Reverse(sorted)
	return sorted[:min(limit, len(sorted))]
}
