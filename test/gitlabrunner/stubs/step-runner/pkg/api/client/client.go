// Package client has the words of a conversation with a step service.
package client

import (
	"fmt"
	"time"
)

// State is where a list of steps stands.
type State int

// The end states that gitlab-runner tells apart.
const (
	StateSuccess State = iota + 1
	StateCancelled
)

// String is the state's number, for messages.
func (s State) String() string { return fmt.Sprintf("state %d", int(s)) }

// ErrorKind says whose failure it was.
type ErrorKind int

// The kinds of failure that gitlab-runner tells apart.
const (
	ErrorUnknown ErrorKind = iota
	ErrorInternal
	ErrorStepFailure
	ErrorCancelled
	ErrorTimeout
)

// Status is the answer at the end.
type Status struct {
	State     State
	ErrorKind ErrorKind
	Message   string
}

// Variable is one job variable.
type Variable struct {
	Key, Value   string
	File, Masked bool
}

// RunRequest asks for a list of steps to be run.
type RunRequest struct {
	Id, WorkDir, BuildDir, Steps string
	Timeout                      *time.Duration
	Env                          map[string]string
	Variables                    []Variable
}
