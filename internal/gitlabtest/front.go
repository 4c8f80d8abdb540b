package gitlabtest

import (
	"bytes"
	"maps"
	"net"
	"net/http"
	"strings"
)

// front is what every request passes before its endpoint: it is counted, then meets the faults,
// then the rate limits.
func (s *Server) front() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.tasks.Add(1) // http.Server forgets hijacked connections; we do not
		defer s.tasks.Done()

		// The emulator's own endpoints are neither counted nor broken.
		if strings.HasPrefix(r.URL.Path, "/-/emulator/") {
			s.mux.ServeHTTP(w, r)
			return
		}
		if id := r.Header.Get("X-Request-Id"); id != "" {
			w.Header().Set("X-Request-Id", id)
		}
		_, pattern := s.mux.Handler(r)
		if !strings.Contains(pattern, " ") {
			pattern = r.Method + " " + pattern
		}
		s.mu.Lock()
		s.state.requests[pattern]++
		fault := s.matchRequestFault(r.Method, r.URL.EscapedPath())
		s.mu.Unlock()
		s.serveWithFault(w, r, fault)
	})
}

func (s *Server) serveWithFault(w http.ResponseWriter, r *http.Request, fault *Fault) {
	if fault == nil {
		s.serveLimited(w, r)
		return
	}
	s.log.Info("request fault", "action", fault.Action, "method", r.Method, "path", r.URL.Path)
	switch fault.Action {
	case FaultStatus:
		fault.answer(w)
	case FaultStatusAfter:
		s.serveLimited(newHeldAnswer(), r)
		fault.answer(w)
	case FaultResetBefore:
		reset(w)
	case FaultResetAfter:
		s.serveLimited(newHeldAnswer(), r)
		reset(w)
	case FaultDelay:
		s.pause(r.Context(), fault.Delay)
		s.serveLimited(w, r)
	case FaultDelayAnswer:
		held := newHeldAnswer()
		s.serveLimited(held, r)
		s.pause(r.Context(), fault.Delay)
		held.release(w)
	}
}

func (s *Server) serveLimited(w http.ResponseWriter, r *http.Request) {
	if s.limit(w, r) {
		return
	}
	s.mux.ServeHTTP(w, r)
}

// reset ends the connection with a TCP reset, the way a dying proxy does.
func reset(w http.ResponseWriter) {
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		return
	}
	conn, _, err := hijacker.Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// heldAnswer keeps an endpoint's answer from the client: the effect happened, the news of it did not arrive.
type heldAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func newHeldAnswer() *heldAnswer { return &heldAnswer{header: http.Header{}, status: http.StatusOK} }

func (h *heldAnswer) Header() http.Header         { return h.header }
func (h *heldAnswer) WriteHeader(status int)      { h.status = status }
func (h *heldAnswer) Write(p []byte) (int, error) { return h.body.Write(p) }

func (h *heldAnswer) release(w http.ResponseWriter) {
	maps.Copy(w.Header(), h.header)
	w.WriteHeader(h.status)
	_, _ = w.Write(h.body.Bytes())
}

// cutPattern splits "GET /path" as http.ServeMux reads it.
func cutPattern(pattern string) (method, path string, ok bool) {
	method, path, ok = strings.Cut(pattern, " ")
	return method, strings.TrimSpace(path), ok
}

// Requests says how often each endpoint was called, keyed by method and pattern:
// "POST /api/v4/jobs/request", "GET /api/v4/projects/{id}/jobs". Calls that a fault broke count too.
func (s *Server) Requests() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.state.requests)
}

func (s *Server) showRequests(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, s.Requests())
	return nil
}

func (s *Server) showJobs(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, s.Jobs(JobFilter{}))
	return nil
}
