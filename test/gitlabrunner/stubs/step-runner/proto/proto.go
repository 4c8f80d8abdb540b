// Package proto has the description of a step's inputs.
package proto

// ValueType is the type of an input.
type ValueType int32

// The types that gitlab-runner's own steps announce.
const (
	ValueType_string ValueType = iota + 1
	ValueType_boolean
	ValueType_array
)

// Spec describes a step.
type Spec struct{ Spec *Spec_Content }

// GetSpec is the description's content; nil stays nil.
func (s *Spec) GetSpec() *Spec_Content {
	if s == nil {
		return nil
	}
	return s.Spec
}

// Spec_Content is what a Spec holds.
type Spec_Content struct {
	Inputs map[string]*Spec_Content_Input
}

// GetInputs is the inputs by name.
func (c *Spec_Content) GetInputs() map[string]*Spec_Content_Input {
	if c == nil {
		return nil
	}
	return c.Inputs
}

// Spec_Content_Input is one input.
type Spec_Content_Input struct {
	Type      ValueType
	Default   any
	Sensitive bool
}

// RegisterStepRunnerServer registers nothing: there is no step service.
func RegisterStepRunnerServer(srv, service any) {}
