// Package schema has the written form of native steps.
package schema

// StepInputs are a step's inputs by name.
type StepInputs map[string]any

// Step is one step of a job's `run:` list.
type Step struct {
	Name   *string    `json:"name,omitempty"`
	Step   any        `json:"step,omitempty"`
	Inputs StepInputs `json:"inputs,omitempty"`
	Run    []Step     `json:"run,omitempty"`
}
