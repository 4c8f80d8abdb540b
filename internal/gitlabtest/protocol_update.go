package gitlabtest

import (
	"fmt"
	"hash/crc32"
	"net/http"
	"strconv"
	"time"
)

// jobByID authenticates a call about a job. An unknown job is a 403, not a 404: GitLab wants the
// runner to stop. A job that no longer runs says so in Job-Status. The caller holds mu.
func (s *Server) jobByID(w http.ResponseWriter, r *http.Request, token string) (*job, error) {
	id, err := strconv.ParseInt(r.PathValue("job"), 10, 64)
	if err != nil {
		return nil, apiParam("id is invalid")
	}
	j := s.state.jobs[id]
	if j == nil || token != j.token {
		return nil, apiMessage(http.StatusForbidden, "403 Forbidden")
	}
	w.Header().Set("Job-Status", string(j.Status))
	if !j.Status.onRunner() {
		return nil, forbidden("Job is not running")
	}
	j.heardAt = s.now()
	return j, nil
}

// reject counts a refused call against the job that it was about. The caller holds mu.
func (s *Server) reject(r *http.Request) {
	if id, err := strconv.ParseInt(r.PathValue("job"), 10, 64); err == nil && s.state.jobs[id] != nil {
		s.state.jobs[id].Rejected++
	}
}

// updateJob is PUT /jobs/:id: 200 done, 403 not yours or not running, 412 the log is not what the
// runner sent. A 202 (accepted, ask again) comes only by a fault.
func (s *Server) updateJob(w http.ResponseWriter, r *http.Request) error {
	p, err := readParams(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	err = s.applyUpdate(w, r, p)
	if err != nil {
		s.reject(r)
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, http.StatusOK)
	return nil
}

func (s *Server) applyUpdate(w http.ResponseWriter, r *http.Request, p params) error {
	token := credential(r, p, "JOB-TOKEN")
	if token == "" {
		return apiParam("token is missing")
	}
	state := p.text("state")
	if id, err := strconv.ParseInt(r.PathValue("job"), 10, 64); err == nil && s.state.jobs[id] != nil && token == s.state.jobs[id].token {
		s.state.jobs[id].Updates[state]++
	}
	j, err := s.jobByID(w, r, token)
	if err != nil {
		return err
	}
	w.Header().Set("X-GitLab-Trace-Update-Interval", strconv.Itoa(int(s.cfg.TraceUpdateInterval/time.Second)))
	switch state {
	case "running", "":
		s.touch()
		return nil
	case "success", "failed":
	default:
		return apiParam("state does not have a valid value")
	}
	if !traceMatches(j.trace, p) {
		// The runner sends the whole log again, from zero.
		j.trace = nil
		return apiMessage(http.StatusPreconditionFailed, "412 Precondition Failed - the trace does not match its checksum")
	}
	var code *int
	if p.has("exit_code") {
		n, err := p.number("exit_code")
		if err != nil {
			return err
		}
		v := int(n)
		code = &v
	}
	s.finish(j, Status(state), p.text("failure_reason"), code)
	w.Header().Set("Job-Status", string(j.Status))
	return nil
}

// traceMatches compares the log with the checksum and size that the runner sends along, if it does.
func traceMatches(trace []byte, p params) bool {
	checksum, size := p.text("checksum"), ""
	if output, ok := p["output"].(map[string]any); ok {
		o := params(output)
		if o.has("checksum") {
			checksum = o.text("checksum")
		}
		size = o.text("bytesize")
	}
	if checksum != "" && checksum != Checksum(trace) {
		return false
	}
	return size == "" || size == strconv.Itoa(len(trace))
}

// Checksum is a log's checksum as gitlab-runner sends it.
func Checksum(trace []byte) string { return fmt.Sprintf("crc32:%08x", crc32.ChecksumIEEE(trace)) }
