package gitlabtest

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
)

// The endpoints below /-/emulator are no part of GitLab: a test in another process scripts the
// emulator with them. They ask for no token.

func (s *Server) listFaults(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, s.Faults())
	return nil
}

// addFault takes one [Fault] as JSON and answers {"id": n}.
func (s *Server) addFault(w http.ResponseWriter, r *http.Request) error {
	var f Fault
	d := json.NewDecoder(io.LimitReader(r.Body, maxParamBytes))
	if err := d.Decode(&f); err != nil {
		return apiParam("the fault cannot be read: %v", err)
	}
	id, err := s.AddFault(f)
	if err != nil {
		return apiParam("%v", err)
	}
	writeJSON(w, http.StatusCreated, map[string]any{"id": id})
	return nil
}

func (s *Server) clearFaults(w http.ResponseWriter, _ *http.Request) error {
	s.ClearFaults()
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) removeFault(w http.ResponseWriter, r *http.Request) error {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return apiParam("id is invalid")
	}
	s.RemoveFault(id)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
