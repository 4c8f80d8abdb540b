package gitlabtest

import (
	"crypto/sha256"
	"net/http"
	"strconv"
	"time"
)

// RateLimit allows Limit calls a minute to each caller of the endpoints it names.
// A caller is the token in a header, or the remote address without one.
// Source: https://docs.gitlab.com/administration/settings/user_and_ip_rate_limits/#response-headers
type RateLimit struct {
	Name   string // told in RateLimit-Name; a second limit of the same name replaces the first
	Method string // empty is any
	Path   string // as in [Fault.Path]; empty is any
	Limit  int    // 0 removes the limit
}

type activeLimit struct {
	RateLimit
	windows map[[32]byte]*limitWindow // by caller
}

type limitWindow struct {
	start time.Time
	used  int
}

// SetRateLimit puts a limit in force. Its windows are whole minutes of Config.Now.
func (s *Server) SetRateLimit(l RateLimit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.state.limits[:0:0]
	for _, old := range s.state.limits {
		if old.Name != l.Name {
			kept = append(kept, old)
		}
	}
	if l.Limit > 0 {
		kept = append(kept, &activeLimit{RateLimit: l, windows: map[[32]byte]*limitWindow{}})
	}
	s.state.limits = kept
}

// limit counts a request and reports whether it answered 429.
func (s *Server) limit(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.state.limits {
		if (l.Method != "" && l.Method != r.Method) || (l.Path != "" && !matchPath(l.Path, r.URL.EscapedPath())) {
			continue
		}
		now := s.cfg.Now().UTC()
		caller := callerKey(r)
		win := l.windows[caller]
		if start := now.Truncate(time.Minute); win == nil || !win.start.Equal(start) {
			win = &limitWindow{start: start}
			l.windows[caller] = win
		}
		win.used++
		end := win.start.Add(time.Minute)
		h := w.Header()
		h.Set("RateLimit-Limit", strconv.Itoa(l.Limit))
		h.Set("RateLimit-Name", l.Name)
		h.Set("RateLimit-Observed", strconv.Itoa(win.used))
		h.Set("RateLimit-Remaining", strconv.Itoa(max(l.Limit-win.used, 0)))
		h.Set("RateLimit-Reset", strconv.FormatInt(end.Unix(), 10))
		h.Set("RateLimit-ResetTime", end.Format(http.TimeFormat))
		if win.used <= l.Limit {
			continue
		}
		h.Set("Retry-After", strconv.Itoa(int(end.Sub(now).Seconds())+1))
		writeJSON(w, http.StatusTooManyRequests, map[string]any{
			"message": map[string]any{"error": "This endpoint has been requested too many times. Try again later."},
		})
		return true
	}
	return false
}

func callerKey(r *http.Request) [32]byte {
	for _, name := range []string{"RUNNER-TOKEN", "JOB-TOKEN", "PRIVATE-TOKEN", "Authorization"} {
		if v := r.Header.Get(name); v != "" {
			return sha256.Sum256([]byte(v))
		}
	}
	return sha256.Sum256([]byte("address " + hostOf(r.RemoteAddr)))
}
