// Package di would put a step service together.
package di

import (
	"errors"
	"log/slog"

	"gitlab.com/gitlab-org/step-runner/pkg/runner"
)

// Container holds nothing.
type Container struct{}

// NewContainer takes the options and forgets them.
func NewContainer(...func(*Container)) *Container { return &Container{} }

// WithBuiltinFunc would add a step.
func WithBuiltinFunc(string, runner.BuiltinFunction) func(*Container) { return func(*Container) {} }

// WithOperatorLogger would set the log.
func WithOperatorLogger(*slog.Logger) func(*Container) { return func(*Container) {} }

// StepRunnerService always fails.
func (c *Container) StepRunnerService() (any, error) {
	return nil, errors.New("this test build of gitlab-runner has no step service")
}
