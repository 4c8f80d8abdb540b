package gitlabtest

import (
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Runner is a snapshot of one runner.
type Runner struct {
	ID              int64
	Type            string // instance_type, group_type, project_type
	ProjectIDs      []int64
	GroupID         int64
	Description     string
	MaintenanceNote string
	Tags            []string
	RunUntagged     bool
	Locked          bool
	Paused          bool
	RefProtected    bool
	MaximumTimeout  time.Duration // 0 is none
	TokenExpiresAt  time.Time
	CreatedAt       time.Time
	ContactedAt     time.Time // zero: never
	Token           string    // the live authentication token
	JobIDs          []int64   // every job it was handed, in order
	Systems         []RunnerSystem
}

// RunnerSystem is one machine that used the runner's token, told apart by system_id.
type RunnerSystem struct {
	SystemID     string
	Version      string
	Revision     string
	Platform     string
	Architecture string
	Executor     string
	CreatedAt    time.Time
	ContactedAt  time.Time
}

type runner struct {
	Runner
	// queueValue changes when a job that fits becomes pending; the runner sends it back as last_update.
	queueValue string
	deleted    bool
}

func (r *runner) snapshot() Runner {
	out := r.Runner
	out.ProjectIDs = slices.Clone(r.ProjectIDs)
	out.Tags = slices.Clone(r.Tags)
	out.JobIDs = slices.Clone(r.JobIDs)
	out.Systems = slices.Clone(r.Systems)
	return out
}

// Runners are all runners that exist, by id.
func (s *Server) Runners() []Runner {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []Runner{}
	for _, r := range s.runnersByID() {
		out = append(out, r.snapshot())
	}
	return out
}

// CreateRunner makes a runner without going through the API. The token is in the answer.
// Only the fields that POST /user/runners takes are read.
func (s *Server) CreateRunner(r Runner) Runner {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addRunner(r).snapshot()
}

// DeleteRunner removes a runner. A job that it runs goes on, because it has its own token, and is not failed either: see
// SweepTimeouts.
func (s *Server) DeleteRunner(id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.state.runners[id]; r != nil {
		s.removeRunner(r)
	}
}

func (s *Server) addRunner(in Runner) *runner {
	if in.Type == "" {
		in.Type = "project_type"
	}
	in.ID = s.state.nextID("runner")
	in.Token = s.secret("glrt-")
	in.CreatedAt = s.now()
	in.ContactedAt, in.JobIDs, in.Systems = time.Time{}, nil, nil
	in.Tags, in.ProjectIDs = slices.Clone(in.Tags), slices.Clone(in.ProjectIDs)
	r := &runner{Runner: in}
	s.tick(r)
	s.state.runners[r.ID] = r
	s.state.runnerTokens[r.Token] = r
	s.log.Info("runner created", "runner", r.ID, "type", r.Type, "tags", r.Tags)
	s.touch()
	return r
}

func (s *Server) removeRunner(r *runner) {
	r.deleted = true
	delete(s.state.runners, r.ID)
	delete(s.state.runnerTokens, r.Token)
	s.log.Info("runner deleted", "runner", r.ID)
	s.touch()
}

// tick gives the runner's queue a new value, which ends its long poll.
func (s *Server) tick(r *runner) {
	s.state.queueTicks++
	r.queueValue = strconv.FormatInt(s.state.queueTicks, 16)
}

func (s *Server) replaceRunnerToken(r *runner) {
	delete(s.state.runnerTokens, r.Token)
	r.Token = s.secret("glrt-")
	s.state.runnerTokens[r.Token] = r
	s.touch()
}

func (s *Server) runnersByID() []*runner {
	out := make([]*runner, 0, len(s.state.runners))
	for _, r := range s.state.runners {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *runner) int { return int(a.ID - b.ID) })
	return out
}

// runnerByToken authenticates a runner; unknown, deleted and expired are all one 403.
func (s *Server) runnerByToken(token string) (*runner, error) {
	r := s.state.runnerTokens[token]
	if r == nil || (!r.TokenExpiresAt.IsZero() && !s.now().Before(r.TokenExpiresAt)) {
		return nil, apiMessage(http.StatusForbidden, "403 Forbidden")
	}
	return r, nil
}

// status is GitLab's word for how lately the runner was seen.
// Source: https://docs.gitlab.com/ci/runners/runners_scope/#runner-statuses
func (r *runner) status(now time.Time) string {
	switch {
	case r.ContactedAt.IsZero() && now.Sub(r.CreatedAt) > 90*24*time.Hour:
		return "stale"
	case r.ContactedAt.IsZero():
		return "never_contacted"
	case now.Sub(r.ContactedAt) > 90*24*time.Hour:
		return "stale"
	case now.Sub(r.ContactedAt) > 2*time.Hour:
		return "offline"
	}
	return "online"
}
