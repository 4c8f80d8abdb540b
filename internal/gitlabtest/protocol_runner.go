package gitlabtest

import (
	"net/http"
	"slices"
)

// ownRunner reads a call that a runner makes about itself, and authenticates it. mu is held on success.
func (s *Server) ownRunner(r *http.Request) (*runner, params, error) {
	p, err := readParams(r)
	if err != nil {
		return nil, nil, err
	}
	token := credential(r, p, "RUNNER-TOKEN")
	if token == "" {
		return nil, nil, apiParam("token is missing")
	}
	s.mu.Lock()
	run, err := s.runnerByToken(token)
	if err != nil {
		s.mu.Unlock()
		return nil, nil, err
	}
	return run, p, nil
}

func (s *Server) verifyRunner(w http.ResponseWriter, r *http.Request) error {
	run, p, err := s.ownRunner(r)
	if err != nil {
		return err
	}
	s.contact(run, systemInfo(p))
	answer := map[string]any{"id": run.ID, "token": run.Token, "token_expires_at": apiTime(run.TokenExpiresAt)}
	s.mu.Unlock()
	writeJSON(w, http.StatusOK, answer)
	return nil
}

func (s *Server) deleteRunnerByToken(w http.ResponseWriter, r *http.Request) error {
	run, _, err := s.ownRunner(r)
	if err != nil {
		return err
	}
	s.removeRunner(run)
	s.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// deleteRunnerSystem is what `gitlab-runner unregister` sends: the runner itself stays.
func (s *Server) deleteRunnerSystem(w http.ResponseWriter, r *http.Request) error {
	run, p, err := s.ownRunner(r)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	id := p.text("system_id")
	if id == "" {
		return apiParam("system_id is missing")
	}
	run.Systems = slices.DeleteFunc(run.Systems, func(m RunnerSystem) bool { return m.SystemID == id })
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) resetOwnRunnerToken(w http.ResponseWriter, r *http.Request) error {
	run, _, err := s.ownRunner(r)
	if err != nil {
		return err
	}
	s.replaceRunnerToken(run)
	answer := map[string]any{"token": run.Token, "token_expires_at": apiTime(run.TokenExpiresAt)}
	s.mu.Unlock()
	writeJSON(w, http.StatusCreated, answer)
	return nil
}

// routerDiscovery: there is no job router here.
func (s *Server) routerDiscovery(http.ResponseWriter, *http.Request) error {
	return apiMessage(http.StatusNotImplemented, "501 Not Implemented")
}
