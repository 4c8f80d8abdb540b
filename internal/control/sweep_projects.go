package control

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

// sweeper is what this process remembers between two rounds of the sweep. It is in memory only: after a crash projects are
// asked anew, and discovered anew.
type sweeper struct {
	budget *budget
	salt   uint64

	mu         sync.Mutex
	askedAt    map[int64]time.Time
	questions  int64                        // asked of projects so far
	barred     map[int64]time.Time          // since when GitLab does not let us ask
	discovered map[int64]firerunner.Project // by membership
	fresh      map[int64]firerunner.Project // the same, of the listing that is under way
	after      int64                        // how far that is
	listedAt   time.Time                    // when the last one began that came to its end
	began      time.Time                    // when the one that is under way began; zero: none is
	counts     SweepState
}

// newSweeper has a budget that knows GitLab's limits, if GitLab tells them.
func newSweeper(c Config) *sweeper {
	b := &budget{perMinute: c.SweepPerMinute, clock: time.Now}
	if teller, ok := c.GitLab.(firerunner.QuotaTeller); ok {
		b.quota = teller.Quota
	}
	return &sweeper{budget: b, salt: uint64(c.Now().UnixNano()), askedAt: map[int64]time.Time{}, barred: map[int64]time.Time{}}
}

// barredFor is how long a project is left alone that GitLab does not let us ask: it is gone, or not ours any more.
const barredFor = time.Hour

// SweepState is what is seen of the sweep from outside.
type SweepState struct {
	Active, Idle int     // projects
	PerMinute    float64 // requests to GitLab that the sweep may make now
	Requests     int64   // that it has made
	Trouble      int     // projects whose webhook does not do its work
}

// SweepState returns what the sweep is about, for metrics.
func (c *Control) SweepState() SweepState {
	c.sweeper.mu.Lock()
	s := c.sweeper.counts
	c.sweeper.mu.Unlock()
	s.PerMinute, s.Requests = c.sweeper.budget.state()
	s.Trouble = c.webhooks.trouble()
	return s
}

// known returns every project that the sweep is for, and which are active: those of the configuration, those with a sign
// of life within ActiveWindow, and those of which something lives. The others have been seen within SweepWindow, or were
// discovered.
func (c *Control) known(ctx context.Context) ([]swept, error) {
	now := c.Now()
	seen, err := c.Store.Projects(ctx, now.Add(-c.set().SweepWindow))
	if err != nil {
		return nil, fmt.Errorf("listing the projects to sweep: %w", err)
	}
	live, err := c.Store.Runners(ctx, firerunner.RunnerQuery{Live: true})
	if err != nil {
		return nil, fmt.Errorf("reading live runners: %w", err)
	}
	open, err := c.Store.Jobs(ctx, firerunner.JobQuery{Statuses: openStatuses(), OursOnly: true})
	if err != nil {
		return nil, fmt.Errorf("reading open jobs: %w", err)
	}
	active := map[int64]bool{}
	for _, id := range c.set().SweepProjects {
		active[id] = true
	}
	for _, p := range seen {
		active[p.ID] = active[p.ID] || now.Sub(p.SeenAt) < c.ActiveWindow
	}
	for _, r := range live {
		active[r.Demand.ProjectID] = true
	}
	for _, j := range open {
		active[j.ProjectID] = true
	}
	s := c.sweeper
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, found := range []map[int64]firerunner.Project{s.discovered, s.fresh} {
		for id := range found {
			if _, known := active[id]; !known {
				active[id] = false
			}
		}
	}
	for _, forgotten := range []map[int64]time.Time{s.askedAt, s.barred} {
		maps.DeleteFunc(forgotten, func(id int64, _ time.Time) bool { _, ok := active[id]; return !ok })
	}
	s.counts = SweepState{}
	all := make([]swept, 0, len(active))
	for id, is := range active {
		p := swept{id: id, active: is, askedAt: s.askedAt[id], every: c.IdleInterval}
		if since, barred := s.barred[id]; barred {
			p.active, p.askedAt, p.every = false, since, barredFor
		}
		if p.active {
			s.counts.Active++
		} else {
			s.counts.Idle++
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b swept) int { return cmp.Compare(a.id, b.id) })
	return all, nil
}

func openStatuses() []firerunner.JobStatus {
	return []firerunner.JobStatus{firerunner.JobPending, firerunner.JobRunning, firerunner.JobCanceling}
}

// asked notes that a project was asked, and whether GitLab lets us. It reports whether that is news.
func (s *sweeper) asked(id int64, at time.Time, barred bool) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.askedAt[id] = at
	s.questions++
	_, before := s.barred[id]
	if barred {
		s.barred[id] = at
	} else {
		delete(s.barred, id)
	}
	return barred && !before
}

// discover lists the projects of which the token's user is a maintainer, page by page, every DiscoverInterval. A page is a
// request of the budget; a listing that is cut short goes on in the next round. What is not listed any more is forgotten.
func (c *Control) discover(ctx context.Context, end time.Time) error {
	if c.lister == nil || !c.Discover {
		return nil
	}
	s := c.sweeper
	s.mu.Lock()
	now := c.Now()
	if s.began.IsZero() {
		if !s.listedAt.IsZero() && now.Sub(s.listedAt) < c.DiscoverInterval && !s.listedAt.After(now) {
			s.mu.Unlock()
			return nil
		}
		s.began, s.after, s.fresh = now, 0, map[int64]firerunner.Project{}
	}
	after := s.after
	s.mu.Unlock()
	for {
		if !s.budget.wait(ctx, end) {
			return nil
		}
		callCtx, cancel := context.WithTimeout(ctx, c.CallTimeout)
		page, err := c.lister.MemberProjects(callCtx, after)
		cancel()
		if err != nil {
			if code := firerunner.CodeOf(err); code == firerunner.Unauthorized || code == firerunner.NotFound { // so it stays for a while
				s.mu.Lock()
				s.listedAt, s.began = s.began, time.Time{}
				s.mu.Unlock()
			}
			return fmt.Errorf("discovering projects: %w", err)
		}
		s.mu.Lock()
		for _, p := range page {
			s.fresh[p.ID] = p
			after = max(after, p.ID)
		}
		if len(page) == 0 || after == s.after {
			news := len(s.fresh) - len(s.discovered)
			s.discovered, s.fresh, s.listedAt, s.began = s.fresh, nil, s.began, time.Time{}
			found := len(s.discovered)
			s.mu.Unlock()
			if news != 0 {
				c.Logger.Info("projects discovered", "projects", found)
			}
			return nil
		}
		s.after = after
		s.mu.Unlock()
	}
}
