package firerunner

import (
	"errors"
	"fmt"
)

// Code says what kind of error it is. There are few, so that each has one HTTP status and one exit status.
type Code string

// The codes.
const (
	Invalid      Code = "invalid"      // the request or the configuration is wrong; trying again will not help
	NotFound     Code = "not_found"    // it does not exist (any more)
	Conflict     Code = "conflict"     // it is not in a state that permits this
	Unauthorized Code = "unauthorized" // the credential is missing, wrong or too weak
	Unavailable  Code = "unavailable"  // a part that is needed does not answer; trying again may help
	Exhausted    Code = "exhausted"    // a limit is reached
	Internal     Code = "internal"     // our mistake
)

// Error has a code, a message that says what we were doing and why it failed, a hint on what to do, and the
// cause, for errors.Is and errors.As.
type Error struct {
	Code    Code
	Message string // what we were doing and what is wrong; never a secret
	Hint    string // the remedy; may be empty
	Err     error  // the cause; may be nil
}

// Error returns the message, which names the cause too.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error; a %w in the format becomes its cause.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Err: errors.Unwrap(err)}
}

// WithHint adds the remedy and returns the same error.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// CodeOf returns the code of the outermost Error in the chain; Internal if there is none, empty for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}

// HintOf returns the first hint in the chain, or nothing.
func HintOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}

// ExitStatus is the process's exit status for an error: 0 for nil, 2 for what the user must change, and one
// status of its own for each of the other codes, so that scripts can tell them apart.
func ExitStatus(err error) int {
	switch CodeOf(err) {
	case "":
		return 0
	case Invalid:
		return 2
	case NotFound:
		return 3
	case Conflict:
		return 4
	case Unauthorized:
		return 5
	case Unavailable:
		return 6
	case Exhausted:
		return 7
	default:
		return 1
	}
}
