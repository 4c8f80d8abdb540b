// Package runner has the contract between the step service and the steps that
// gitlab-runner brings itself. Nothing calls them in this build.
package runner

import (
	"context"
	"io"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"gitlab.com/gitlab-org/step-runner/proto"
)

// Kind is the type that a step asks its input for.
type Kind int

// The kinds that are asked for.
const (
	KindString Kind = iota
	KindList
	KindBool
)

// BuiltinResult is what a step leaves behind.
type BuiltinResult struct{}

// BuiltinFunction is a step written in Go.
type BuiltinFunction interface {
	Spec() *proto.Spec
	Run(context.Context, BuiltinContext) (BuiltinResult, error)
}

// BuiltinContext is the surroundings of a step while it runs.
type BuiltinContext interface {
	GetInput(name string, kind Kind) (*structpb.Value, error)
	GetInputWithDefault(name string, kind Kind, inputs map[string]*proto.Spec_Content_Input) (*structpb.Value, error)
	GetJobVars() map[string]*structpb.Value
	GetEnvs() map[string]string
	GetEnvList() []string
	Pipe() (stdout, stderr io.Writer)
	WorkDir() string
	GracefulExitDelay() time.Duration
	ListenCancel(context.Context) (context.Context, context.CancelFunc)
}
