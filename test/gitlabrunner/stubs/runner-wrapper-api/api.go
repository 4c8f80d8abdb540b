// Package api has the words of the `wrapper` command, which this build does
// not have.
package api

import (
	"context"
	"errors"
	"fmt"
)

// Status is where the wrapped process stands.
type Status int

// The states of a wrapped process.
const (
	StatusUnknown Status = iota
	StatusRunning
	StatusInShutdown
	StatusStopped
)

// String is the status's number, for messages.
func (s Status) String() string { return fmt.Sprintf("status %d", int(s)) }

// ErrProcessNotInitialized says that no process was started yet.
var ErrProcessNotInitialized = errors.New("process is not initialized")

// ShutdownCallback is told of the shutdown.
type ShutdownCallback interface{ Run(context.Context) }

// ShutdownCallbackDef says whom to tell.
type ShutdownCallbackDef interface {
	URL() string
	Method() string
}

// InitGracefulShutdownRequest asks for a shutdown.
type InitGracefulShutdownRequest interface{ ShutdownCallbackDef() ShutdownCallbackDef }

// NewShutdownCallback is a callback that tells nobody.
func NewShutdownCallback(log any, def ShutdownCallbackDef) ShutdownCallback { return silent{} }

type silent struct{}

func (silent) Run(context.Context) {}
