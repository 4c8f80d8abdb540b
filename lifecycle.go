package firerunner

import (
	"fmt"
	"time"
)

// State is where a runner is in its life. States only rise: of two reports the greater wins, so a late,
// doubled or replayed report can do no harm. The values have gaps so that a state can be added between two.
type State int

// The states of a runner, in order of life.
const (
	Queued   State = 10 // wanted; no host yet
	Placed   State = 20 // capacity on a host is reserved
	Creating State = 30 // the credential and the microVM are being made
	Booting  State = 40 // the driver has the microVM; the guest has not spoken
	Ready    State = 50 // the guest said hello; its gitlab-runner asks GitLab for a job
	Running  State = 60 // its gitlab-runner took a job
	Stopping State = 70 // microVM, disk, network and credential are being removed
	Gone     State = 80 // nothing of it is left anywhere but in the store
)

// Owner names the part that may move a runner out of a state. Each state has exactly one.
type Owner string

// The owners.
const (
	OwnerPlacement Owner = "placement" // picks a host, or says why not
	OwnerProvision Owner = "provision" // makes credential and microVM
	OwnerWatch     Owner = "watch"     // listens to guest and GitLab
	OwnerStop      Owner = "stop"      // removes everything
)

// Stage is one row of the lifecycle: a state, who moves a runner out of it, where to, on what evidence, and
// within which time. Every stage before Stopping may also end early, in Stopping, moved by the same owner.
type Stage struct {
	State    State
	Next     State
	Owner    Owner
	Evidence string        // what makes the owner move the runner on
	Within   time.Duration // default deadline; 0 means none; see Deadlines for the one in force
	Overdue  string        // what happens when the deadline passes
}

// Lifecycle returns the transition table, in order of life. Gone has no row: nothing leaves it.
func Lifecycle() []Stage {
	return []Stage{
		{Queued, Placed, OwnerPlacement, "a host has room", 0, "waits as long as a job wants it; its reason says why"},
		{Placed, Creating, OwnerProvision, "provisioning began", 30 * time.Second, "rejected; another runner takes its place"},
		{Creating, Booting, OwnerProvision, "the driver accepted the microVM", 2 * time.Minute, "rejected; another runner takes its place"},
		{Booting, Ready, OwnerWatch, "the guest said hello", time.Minute, "rejected; another runner takes its place"},
		{Ready, Running, OwnerWatch, "its gitlab-runner took a job", 2 * time.Minute, "cancelled or rejected; another runner takes its place if a job still waits"},
		{Running, Stopping, OwnerWatch, "the job ended, was cancelled, or ran out of time", 2 * time.Minute, "failed; the limit is the job timeout plus this grace"},
		{Stopping, Gone, OwnerStop, "microVM, disk, network and GitLab runner are absent", time.Minute, "an event says so; removal is tried until it succeeds"},
	}
}

// Transition is one permitted step from a state to a greater one.
type Transition struct {
	From, To State
	Owner    Owner
}

// Transitions returns every permitted step: each row of Lifecycle, and the early end of each row.
func Transitions() []Transition {
	var ts []Transition
	for _, s := range Lifecycle() {
		ts = append(ts, Transition{s.State, s.Next, s.Owner})
		if s.Next < Stopping {
			ts = append(ts, Transition{s.State, Stopping, s.Owner})
		}
	}
	return ts
}

// MayMove reports whether owner may move a runner from one state to another.
func MayMove(from, to State, owner Owner) bool {
	for _, t := range Transitions() {
		if t.From == from && t.To == to {
			return t.Owner == owner
		}
	}
	return false
}

// OwnerOf returns the one owner of a state; empty for Gone and for unknown states.
func OwnerOf(s State) Owner {
	for _, row := range Lifecycle() {
		if row.State == s {
			return row.Owner
		}
	}
	return ""
}

// Deadlines is how long a runner may stay in each state. Zero means no deadline.
type Deadlines struct {
	Placed, Creating, Booting, Ready time.Duration
	JobTimeout                       time.Duration // the longest a job may run
	RunningGrace                     time.Duration // on top of JobTimeout
	Stopping                         time.Duration
	FailJob                          time.Duration // how long GitLab is tried to be told that a job failed whose microVM died
}

// DefaultDeadlines returns the deadlines of the lifecycle table, with a job timeout of one hour (GitLab's default).
func DefaultDeadlines() Deadlines {
	d := Deadlines{JobTimeout: time.Hour, FailJob: 10 * time.Minute}
	for _, s := range Lifecycle() {
		switch s.State {
		case Placed:
			d.Placed = s.Within
		case Creating:
			d.Creating = s.Within
		case Booting:
			d.Booting = s.Within
		case Ready:
			d.Ready = s.Within
		case Running:
			d.RunningGrace = s.Within
		case Stopping:
			d.Stopping = s.Within
		}
	}
	return d
}

// Of returns how long a runner may stay in s; zero means no limit.
func (d Deadlines) Of(s State) time.Duration {
	switch s {
	case Placed:
		return d.Placed
	case Creating:
		return d.Creating
	case Booting:
		return d.Booting
	case Ready:
		return d.Ready
	case Running:
		return d.JobTimeout + d.RunningGrace
	case Stopping:
		return d.Stopping
	}
	return 0
}

// Life is the longest that a microVM may live, counted from its creation: every deadline from Creating on.
// A microVM ends itself after this time, whoever else is dead.
func (d Deadlines) Life() time.Duration {
	return d.Creating + d.Booting + d.Ready + d.JobTimeout + d.RunningGrace + d.Stopping
}

var stateNames = map[State]string{
	Queued: "queued", Placed: "placed", Creating: "creating", Booting: "booting",
	Ready: "ready", Running: "running", Stopping: "stopping", Gone: "gone",
}

// String returns the state's word, as in logs, metrics, events and documents.
func (s State) String() string {
	if n, ok := stateNames[s]; ok {
		return n
	}
	return fmt.Sprintf("state(%d)", int(s))
}

// ParseState is the inverse of String.
func ParseState(name string) (State, error) {
	for s, n := range stateNames {
		if n == name {
			return s, nil
		}
	}
	return 0, Errorf(Invalid, "unknown runner state %q", name)
}

// MarshalText writes the state's word.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the state's word.
func (s *State) UnmarshalText(text []byte) error {
	v, err := ParseState(string(text))
	*s = v
	return err
}

// States returns every state in order of life.
func States() []State {
	return []State{Queued, Placed, Creating, Booting, Ready, Running, Stopping, Gone}
}
