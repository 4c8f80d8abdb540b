package flintlocktest

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
)

// FaultAction is what goes wrong.
type FaultAction string

// Faults of calls. Those named After let the effect happen first, so the caller cannot know: an ambiguous
// CreateMicroVM leaves a microVM whose uid nobody was told.
const (
	FaultError       FaultAction = "error"        // answer Code and Message; nothing happened
	FaultErrorAfter  FaultAction = "error_after"  // answer Code and Message, though it happened
	FaultDelay       FaultAction = "delay"        // wait Delay, then serve
	FaultDelayAnswer FaultAction = "delay_answer" // serve, then wait Delay before answering
	FaultDrop        FaultAction = "drop"         // never answer; nothing happened
	FaultDropAfter   FaultAction = "drop_after"   // never answer, though it happened
	FaultReset       FaultAction = "reset"        // cut the connection; nothing happened
	FaultResetAfter  FaultAction = "reset_after"  // cut the connection, though it happened
)

// Faults of the host, in its loop.
const (
	FaultPullError   FaultAction = "pull_error"   // the registry of Image does not answer
	FaultPullDelay   FaultAction = "pull_delay"   // it answers after Delay; everyone on the host waits
	FaultStuckDelete FaultAction = "stuck_delete" // a delete fails; it stays DELETING until the next try
	FaultBootError   FaultAction = "boot_error"   // the VMM cannot be started; tried again
	FaultDeadBoot    FaultAction = "dead_boot"    // the VMM ends at once; the state is CREATED all the same
)

// Fault breaks calls or steps of the loop that match it. Of several that match, the one added first is taken.
type Fault struct {
	ID     int64       `json:"id"`
	Action FaultAction `json:"action"`
	// Method is the call's short name, such as "CreateMicroVM"; empty is any, reflection included.
	Method string `json:"method,omitempty"`
	// Name is a microVM's id or uid, or a pattern of path.Match; empty is any. Of calls, it is compared with the
	// spec's id for CreateMicroVM and with the uid for GetMicroVM and DeleteMicroVM.
	Name string `json:"name,omitempty"`
	// Image is how the reference begins; empty is any.
	Image string `json:"image,omitempty"`

	// Skip lets that many matches pass first; Count is how often the fault strikes, 0 is forever.
	Skip  int `json:"skip,omitempty"`
	Count int `json:"count,omitempty"`
	// Percent is the chance to strike, by the generator seeded with Config.Seed; 0 is always.
	Percent float64 `json:"percent,omitempty"`

	Code    codes.Code    `json:"code,omitempty"` // of FaultError; default Unknown
	Message string        `json:"message,omitempty"`
	Delay   time.Duration `json:"delay,omitempty"`

	// Struck is how often the fault did strike.
	Struck int `json:"struck"`
}

type activeFault struct {
	Fault
	seen int
}

func callFaults() []FaultAction {
	return []FaultAction{
		FaultError, FaultErrorAfter, FaultDelay, FaultDelayAnswer, FaultDrop, FaultDropAfter, FaultReset, FaultResetAfter,
	}
}

// AddFault puts a fault in force and returns its id.
func (s *Server) AddFault(f Fault) (int64, error) {
	hostFaults := []FaultAction{FaultPullError, FaultPullDelay, FaultStuckDelete, FaultBootError, FaultDeadBoot}
	_, badPattern := path.Match(f.Name, "")
	switch {
	case !slices.Contains(callFaults(), f.Action) && !slices.Contains(hostFaults, f.Action):
		return 0, fmt.Errorf("adding a fault: action %q is none of %v, %v", f.Action, callFaults(), hostFaults)
	case f.Percent < 0 || f.Percent > 100:
		return 0, fmt.Errorf("adding a fault: percent %v is not between 0 and 100", f.Percent)
	case f.Skip < 0 || f.Count < 0 || f.Delay < 0:
		return 0, errors.New("adding a fault: skip, count and delay cannot be negative")
	case badPattern != nil:
		return 0, fmt.Errorf("adding a fault: name %q: %w", f.Name, badPattern)
	}
	if f.Code == codes.OK {
		f.Code = codes.Unknown
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID++
	f.ID, f.Struck = s.lastID, 0
	s.faults = append(s.faults, &activeFault{Fault: f})
	return f.ID, nil
}

// Faults are all faults in force or used up, with how often each struck.
func (s *Server) Faults() []Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Fault, len(s.faults))
	for n, f := range s.faults {
		out[n] = f.Fault
	}
	return out
}

// RemoveFault ends one fault.
func (s *Server) RemoveFault(id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = slices.DeleteFunc(s.faults, func(f *activeFault) bool { return f.ID == id })
}

// ClearFaults ends all faults.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// strike finds the fault that strikes. The caller holds mu.
func (s *Server) strike(match func(*Fault) bool) *Fault {
	for _, f := range s.faults {
		if f.Count > 0 && f.Struck >= f.Count || !match(&f.Fault) {
			continue
		}
		f.seen++
		if f.seen <= f.Skip || f.Percent > 0 && s.chance.Float64()*100 >= f.Percent {
			continue
		}
		f.Struck++
		s.touch()
		hit := f.Fault
		return &hit
	}
	return nil
}

func (f *Fault) matchesName(names ...string) bool {
	return f.Name == "" || slices.ContainsFunc(names, func(name string) bool {
		ok, _ := path.Match(f.Name, name) // the pattern was checked
		return ok
	})
}

func (f *Fault) matchesImage(ref string) bool { return strings.HasPrefix(ref, f.Image) }
