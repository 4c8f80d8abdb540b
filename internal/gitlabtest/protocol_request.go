package gitlabtest

import (
	"net/http"
	"slices"
	"time"
)

// The runner protocol lives under /api/v4/jobs and /api/v4/runners. Credentials come in the body,
// in RUNNER-TOKEN or JOB-TOKEN, or, from runners up to 17.10, in PRIVATE-TOKEN.
// Source: https://docs.gitlab.com/api/runners/ and https://gitlab.com/gitlab-org/gitlab-runner, network/gitlab.go

func credential(r *http.Request, p params, header string) string {
	for _, t := range []string{p.text("token"), r.Header.Get(header), r.Header.Get("PRIVATE-TOKEN")} {
		if t != "" {
			return t
		}
	}
	return ""
}

// requestJob is POST /jobs/request: 201 with a job, 204, 403 for a token that is unknown, 409 only by a fault.
func (s *Server) requestJob(w http.ResponseWriter, r *http.Request) error {
	p, err := readParams(r)
	if err != nil {
		return err
	}
	token := credential(r, p, "RUNNER-TOKEN")
	if token == "" {
		return apiParam("token is missing")
	}
	info := systemInfo(p)
	if !s.hold(r, token, p.text("last_update")) {
		return nil // the runner hung up: a job given to nobody would be lost
	}

	s.mu.Lock()
	answer, lastUpdate, err := s.hand(token, p.text("last_update"), info, p)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if answer == nil {
		w.Header().Set("X-GitLab-Last-Update", lastUpdate)
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	// No X-GitLab-Last-Update on a 201: the runner's next request must not be held.
	writeJSON(w, http.StatusCreated, answer)
	return nil
}

// hold is the long poll: while the runner's queue is as it was when the runner last asked, wait.
// It says whether the runner still waits for the answer.
func (s *Server) hold(r *http.Request, token, lastUpdate string) bool {
	if s.cfg.LongPoll <= 0 || lastUpdate == "" {
		return true
	}
	timer := time.NewTimer(s.cfg.LongPoll)
	defer timer.Stop()
	for {
		s.mu.Lock()
		run := s.state.runnerTokens[token]
		current := run != nil && run.queueValue == lastUpdate
		changed := s.changed
		s.mu.Unlock()
		if !current {
			return r.Context().Err() == nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return true
		case <-r.Context().Done(): // the server's end is one, too
			return false
		}
	}
}

// hand gives the oldest fitting job to the runner. The job is running from here on: two-phase commit,
// where it stays pending until confirmed, is not emulated.
func (s *Server) hand(token, lastUpdate string, info RunnerSystem, p params) (*wireJob, string, error) {
	r, err := s.runnerByToken(token)
	if err != nil {
		return nil, "", err
	}
	s.contact(r, info)
	value := r.queueValue
	if r.Paused || lastUpdate == value {
		return nil, value, nil
	}
	j := s.nextJob(r)
	if j == nil {
		return nil, value, nil
	}
	j.runner, j.RunnerID = r, r.ID
	r.JobIDs = append(r.JobIDs, j.ID)
	j.Handouts = append(j.Handouts, Handout{RunnerID: r.ID, SystemID: info.SystemID, At: s.now()})
	j.Timeout = s.cfg.JobTimeout
	if j.spec.Timeout > 0 {
		j.Timeout = j.spec.Timeout
	}
	if r.MaximumTimeout > 0 {
		j.Timeout = min(j.Timeout, r.MaximumTimeout)
	}
	j.graceful = feature(p, "cancel_gracefully")
	s.transition(j, StatusRunning)
	answer := s.payload(j)
	return &answer, value, nil
}

func feature(p params, name string) bool {
	info, _ := p["info"].(map[string]any)
	features, _ := info["features"].(map[string]any)
	on, _ := features[name].(bool)
	return on
}

func systemInfo(p params) RunnerSystem {
	info, _ := p["info"].(map[string]any)
	text := func(key string) string { v, _ := info[key].(string); return v }
	return RunnerSystem{
		SystemID: p.text("system_id"), Version: text("version"), Revision: text("revision"),
		Platform: text("platform"), Architecture: text("architecture"), Executor: text("executor"),
	}
}

// contact notes that the runner was heard of, and from which machine. The caller holds mu.
func (s *Server) contact(r *runner, info RunnerSystem) {
	now := s.now()
	r.ContactedAt = now
	if info.SystemID == "" {
		info.SystemID = "<legacy>" // GitLab's own name for a runner that sends none
	}
	i := slices.IndexFunc(r.Systems, func(m RunnerSystem) bool { return m.SystemID == info.SystemID })
	if i < 0 {
		info.CreatedAt = now
		r.Systems = append(r.Systems, info)
		i = len(r.Systems) - 1
	}
	info.CreatedAt, info.ContactedAt = r.Systems[i].CreatedAt, now
	r.Systems[i] = info
}
