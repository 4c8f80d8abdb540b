package gitlabtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
)

// FaultAction is what goes wrong.
type FaultAction string

// Faults of requests. Those named After let the effect happen first, so the caller cannot know:
// an ambiguous POST /user/runners makes a runner that nobody has the token of.
const (
	FaultStatus      FaultAction = "status"       // answer Status instead; nothing happened
	FaultStatusAfter FaultAction = "status_after" // answer Status, though it happened
	FaultResetBefore FaultAction = "reset_before" // reset the connection; nothing happened
	FaultResetAfter  FaultAction = "reset_after"  // reset the connection, though it happened
	FaultDelay       FaultAction = "delay"        // wait Delay, then serve (hooks: deliver Delay late, out of order)
	FaultDelayAnswer FaultAction = "delay_answer" // serve, then wait Delay before answering
)

// Faults of webhook deliveries; [FaultDelay] is one too.
const (
	FaultDrop    FaultAction = "drop"    // never sent
	FaultDouble  FaultAction = "double"  // sent twice, with the same webhook-id
	FaultReorder FaultAction = "reorder" // sent after the next one of the same hook (or after Delay, default 1 s)
)

// Fault breaks requests, or webhook deliveries when Hook is set, that match it.
// Of several that match, the one added first is taken.
type Fault struct {
	ID     int64       `json:"id"`
	Action FaultAction `json:"action"`

	// Method and Path choose requests; empty is any. In Path, * stands for one segment and a
	// trailing /** for everything below: "/api/v4/jobs/*/trace", "/api/v4/**".
	Method string `json:"method,omitempty"`
	Path   string `json:"path,omitempty"`

	// Hook makes it a fault of deliveries, chosen by build status, project and job; zero is any.
	Hook        bool   `json:"hook,omitempty"`
	BuildStatus Status `json:"build_status,omitempty"`
	ProjectID   int64  `json:"project_id,omitempty"`
	JobID       int64  `json:"job_id,omitempty"`

	// Skip lets that many matches pass first; Count is how often the fault strikes, 0 is forever.
	Skip  int `json:"skip,omitempty"`
	Count int `json:"count,omitempty"`
	// Percent is the chance to strike, by the generator seeded with Config.Seed; 0 is always.
	Percent float64 `json:"percent,omitempty"`

	Status int               `json:"status,omitempty"`
	Header map[string]string `json:"header,omitempty"` // added to a Status answer, e.g. Job-Status
	Body   string            `json:"body,omitempty"`   // of a Status answer; default GitLab's JSON
	Delay  time.Duration     `json:"-"`                // in JSON: "delay": "1.5s"

	// Struck is how often the fault did strike.
	Struck int `json:"struck"`
}

type activeFault struct {
	Fault
	seen int
}

// AddFault puts a fault in force and returns its id.
func (s *Server) AddFault(f Fault) (int64, error) {
	if err := f.validate(); err != nil {
		return 0, fmt.Errorf("adding a fault: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f.ID, f.Struck = s.state.nextID("fault"), 0
	s.state.faults = append(s.state.faults, &activeFault{Fault: f})
	return f.ID, nil
}

// Faults are all faults in force or used up, with how often each struck.
func (s *Server) Faults() []Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Fault, len(s.state.faults))
	for i, f := range s.state.faults {
		out[i] = f.Fault
	}
	return out
}

// RemoveFault ends one fault; ClearFaults ends them all.
func (s *Server) RemoveFault(id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.faults = slices.DeleteFunc(s.state.faults, func(f *activeFault) bool { return f.ID == id })
}

// ClearFaults ends all faults.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.faults = nil
}

func (f *Fault) validate() error {
	forRequests := []FaultAction{FaultStatus, FaultStatusAfter, FaultResetBefore, FaultResetAfter, FaultDelay, FaultDelayAnswer}
	forHooks := []FaultAction{FaultDrop, FaultDouble, FaultReorder, FaultDelay}
	switch {
	case f.Hook && !slices.Contains(forHooks, f.Action):
		return fmt.Errorf("action %q is none of a hook's: %v", f.Action, forHooks)
	case !f.Hook && !slices.Contains(forRequests, f.Action):
		return fmt.Errorf("action %q is none of a request's: %v", f.Action, forRequests)
	case (f.Action == FaultStatus || f.Action == FaultStatusAfter) && (f.Status < 200 || f.Status > 599):
		return fmt.Errorf("status %d is not between 200 and 599", f.Status)
	case f.Percent < 0 || f.Percent > 100:
		return fmt.Errorf("percent %v is not between 0 and 100", f.Percent)
	case f.Skip < 0 || f.Count < 0 || f.Delay < 0:
		return errors.New("skip, count and delay cannot be negative")
	}
	if _, err := path.Match(f.Path, ""); err != nil {
		return fmt.Errorf("path %q: %w", f.Path, err)
	}
	return nil
}

// matchRequestFault finds the fault that strikes a request. The caller holds mu.
func (s *Server) matchRequestFault(method, escapedPath string) *Fault {
	return s.strike(func(f *Fault) bool {
		return !f.Hook && (f.Method == "" || f.Method == method) && (f.Path == "" || matchPath(f.Path, escapedPath))
	})
}

// matchHookFault finds the fault that strikes a delivery. The caller holds mu.
func (s *Server) matchHookFault(d *delivery) *Fault {
	return s.strike(func(f *Fault) bool {
		return f.Hook && (f.BuildStatus == "" || f.BuildStatus == d.BuildStatus) &&
			(f.ProjectID == 0 || f.ProjectID == d.hook.ProjectID) && (f.JobID == 0 || f.JobID == d.JobID)
	})
}

func (s *Server) strike(match func(*Fault) bool) *Fault {
	for _, f := range s.state.faults {
		if (f.Count > 0 && f.Struck >= f.Count) || !match(&f.Fault) {
			continue
		}
		f.seen++
		if f.seen <= f.Skip || (f.Percent > 0 && s.state.chance.Float64()*100 >= f.Percent) {
			continue
		}
		f.Struck++
		s.touch()
		hit := f.Fault
		return &hit
	}
	return nil
}

func matchPath(pattern, p string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "/**"); ok {
		segments := strings.Count(prefix, "/") + 1
		parts := strings.SplitN(p, "/", segments+1)
		if len(parts) <= segments {
			return false
		}
		pattern, p = prefix, strings.Join(parts[:segments], "/")
	}
	ok, err := path.Match(pattern, p)
	return err == nil && ok
}

func (f *Fault) answer(w http.ResponseWriter) {
	for k, v := range f.Header {
		w.Header().Set(k, v)
	}
	if f.Body != "" {
		w.WriteHeader(f.Status)
		_, _ = w.Write([]byte(f.Body))
		return
	}
	if f.Status == http.StatusNoContent || f.Status < 300 {
		w.WriteHeader(f.Status)
		return
	}
	writeJSON(w, f.Status, map[string]any{"message": fmt.Sprintf("%d %s", f.Status, http.StatusText(f.Status))})
}

type faultAlias Fault // without Fault's own JSON methods

type faultJSON struct {
	faultAlias
	Delay string `json:"delay,omitempty"`
}

// MarshalJSON writes Delay as text ("1.5s").
func (f Fault) MarshalJSON() ([]byte, error) {
	out := faultJSON{faultAlias: faultAlias(f)}
	if f.Delay != 0 {
		out.Delay = f.Delay.String()
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (f *Fault) UnmarshalJSON(data []byte) error {
	var in faultJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	*f = Fault(in.faultAlias)
	if in.Delay == "" {
		return nil
	}
	delay, err := time.ParseDuration(in.Delay)
	if err != nil {
		return fmt.Errorf("delay: %w", err)
	}
	f.Delay = delay
	return nil
}
