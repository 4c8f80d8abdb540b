package gitlabtest

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Hook is a project webhook.
type Hook struct {
	ID           int64
	ProjectID    int64
	URL          string
	Token        string // sent as X-Gitlab-Token; never readable through the API
	SigningToken string // whsec_...; never readable through the API
	JobEvents    bool
	PushEvents   bool   // only told, never sent
	Template     string // of the body; only told: bodies are GitLab's own
	Name         string
	Description  string
	CreatedAt    time.Time
	// FailuresInARow counts deliveries that did not end with 2xx or a redirect.
	FailuresInARow int
	// DisabledUntil is when a hook that failed too often is tried again (Config.AutoDisableHooks).
	DisabledUntil time.Time
	// Disabled means for good, until a test request succeeds.
	Disabled bool
}

// HookDelivery is one attempt to deliver one event.
type HookDelivery struct {
	ID          int64
	HookID      int64
	ProjectID   int64
	JobID       int64
	BuildStatus Status
	MessageID   string // webhook-id and Idempotency-Key: the same for every attempt
	At          time.Time
	Duration    time.Duration
	Status      int    // the receiver's answer; 0 if there was none
	Error       string // why there was none
	Dropped     bool   // by a fault: never sent
	Resent      bool   // by hand
	Body        []byte
	Header      map[string]string
	Answer      string // the start of the receiver's body
}

type hook struct {
	Hook
	queue   []*delivery
	wake    chan struct{} // holds one token when the queue grew
	history []HookDelivery
	removed bool
	backoff time.Duration
	resends []time.Time
}

// delivery is one event on its way to one hook.
type delivery struct {
	HookDelivery
	hook *hook
}

const maxHookHistory = 5000

// AddHook makes a project hook for job events.
func (s *Server) AddHook(projectID int64, h Hook) (Hook, error) {
	h.JobEvents = true
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.state.projects[projectID]
	if p == nil {
		return Hook{}, fmt.Errorf("adding a hook: no project %d", projectID)
	}
	if h.SigningToken != "" {
		if _, err := signingKey(h.SigningToken); err != nil {
			return Hook{}, fmt.Errorf("adding a hook: %w", err)
		}
	}
	return s.addHook(p, h).Hook, nil
}

func (s *Server) addHook(p *project, in Hook) *hook {
	in.ID, in.ProjectID, in.CreatedAt = s.state.nextID("hook"), p.ID, s.now()
	h := &hook{Hook: in, wake: make(chan struct{}, 1)}
	p.hooks = append(p.hooks, h)
	s.state.hooks[h.ID] = h
	s.tasks.Go(func() { s.deliverLoop(h) })
	s.touch()
	return h
}

func (s *Server) removeHook(p *project, h *hook) {
	h.removed = true
	s.state.undelivery -= len(h.queue)
	h.queue = nil
	p.hooks = slices.DeleteFunc(p.hooks, func(other *hook) bool { return other == h })
	delete(s.state.hooks, h.ID)
	h.rouse()
	s.touch()
}

func (h *hook) rouse() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// fireJobHooks queues the job's event, as it is at this moment, for each hook of the project.
func (s *Server) fireJobHooks(j *job) {
	var body []byte
	for _, h := range j.project.hooks {
		if !h.JobEvents {
			continue
		}
		if body == nil {
			body = s.jobEvent(j)
		}
		s.queueDelivery(&delivery{hook: h, HookDelivery: HookDelivery{
			HookID: h.ID, ProjectID: j.ProjectID, JobID: j.ID, BuildStatus: j.Status, MessageID: s.uuid(), Body: body,
		}})
	}
}

func (s *Server) queueDelivery(d *delivery) {
	d.hook.queue = append(d.hook.queue, d)
	s.state.undelivery++
	d.hook.rouse()
}

// Hooks are a project's hooks.
func (s *Server) Hooks(projectID int64) []Hook {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []Hook{}
	if p := s.state.projects[projectID]; p != nil {
		for _, h := range p.hooks {
			out = append(out, h.Hook)
		}
	}
	return out
}

// Deliveries is a hook's history, oldest first, of the last 5000 attempts.
func (s *Server) Deliveries(hookID int64) []HookDelivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.state.hooks[hookID]; h != nil {
		return slices.Clone(h.history)
	}
	return nil
}

// WaitHooks waits until no delivery is queued, held back or under way.
func (s *Server) WaitHooks(ctx context.Context) error {
	if err := s.await(ctx, func() bool { return s.state.undelivery == 0 }); err != nil {
		return fmt.Errorf("waiting for the hooks: %w", err)
	}
	return nil
}

// WaitDelivery waits for a recorded attempt of this hook that done says yes to.
func (s *Server) WaitDelivery(ctx context.Context, hookID int64, done func(HookDelivery) bool) (HookDelivery, error) {
	var found HookDelivery
	err := s.await(ctx, func() bool {
		h := s.state.hooks[hookID]
		if h == nil {
			return false
		}
		i := slices.IndexFunc(h.history, done)
		if i >= 0 {
			found = h.history[i]
		}
		return i >= 0
	})
	if err != nil {
		return HookDelivery{}, fmt.Errorf("waiting for a delivery of hook %d: %w", hookID, err)
	}
	return found, nil
}
