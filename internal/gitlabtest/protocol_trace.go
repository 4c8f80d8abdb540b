package gitlabtest

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A runner sends at most 1 MiB at once; a broker may send more.
const maxTracePatch = 16 << 20

// appendTrace is PATCH /jobs/:id/trace: 202 appended, 400 without Content-Range, 403 not yours or not
// running, 416 when the piece does not continue what is held (Range: 0-<length>).
func (s *Server) appendTrace(w http.ResponseWriter, r *http.Request) error {
	piece, err := io.ReadAll(io.LimitReader(r.Body, maxTracePatch+1))
	if err != nil {
		return apiParam("reading the trace: %v", err)
	}
	if len(piece) > maxTracePatch {
		return apiMessage(http.StatusRequestEntityTooLarge, "413 Request Entity Too Large")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.applyTrace(w, r, piece); err != nil {
		s.reject(r)
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (s *Server) applyTrace(w http.ResponseWriter, r *http.Request, piece []byte) error {
	j, err := s.jobByID(w, r, credential(r, params{"token": r.URL.Query().Get("token")}, "JOB-TOKEN"))
	if err != nil {
		return err
	}
	value := r.Header.Get("Content-Range")
	if value == "" {
		return apiParam("400 Missing header Content-Range")
	}
	// Only the start counts: older runners told a wrong end.
	first, _, _ := strings.Cut(value, "-")
	start, err := strconv.Atoi(first)
	if err != nil || start < 0 {
		return apiParam("400 Content-Range %q is invalid", value)
	}
	if int64(start)+int64(len(piece)) > s.cfg.MaxTraceBytes {
		s.finish(j, StatusFailed, "trace_size_exceeded", nil)
		w.Header().Set("Job-Status", string(j.Status))
		return forbidden("")
	}
	if start == len(j.trace) {
		j.trace = append(j.trace, piece...)
		s.touch()
	}
	held := fmt.Sprintf("0-%d", len(j.trace))
	w.Header().Set("Range", held)
	// A piece sent a second time, whose answer was lost, is as good as appended.
	if len(j.trace) != start+len(piece) {
		return apiMessage(http.StatusRequestedRangeNotSatisfiable, "416 Range Not Satisfiable")
	}
	w.Header().Set("X-GitLab-Trace-Update-Interval", strconv.Itoa(int(s.cfg.TraceUpdateInterval/time.Second)))
	return nil
}
