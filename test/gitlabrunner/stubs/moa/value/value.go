// Package value has the values of job inputs: their kind and their text.
package value

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Kind is the type of a value, in the words of a job's inputs.
type Kind string

// The kinds that a job input can announce, and null.
const (
	NullKind   Kind = "null"
	StringKind Kind = "string"
	NumberKind Kind = "number"
	BoolKind   Kind = "boolean"
	ArrayKind  Kind = "array"
	ObjectKind Kind = "struct"
)

// Errors that a Mapper answers with.
var (
	ErrAttributeNotFound = errors.New("attribute not found")
	ErrInvalidKey        = errors.New("invalid key")
)

// Mapper is anything that can be looked into; the stub never looks.
type Mapper any

// Value is one value: its kind, and its text as a template would show it.
type Value struct {
	kind  Kind
	text  string
	marks uint16
}

// Null is the value of nothing.
func Null() Value { return Value{kind: NullKind} }

// String is a text value.
func String(s string) Value { return Value{kind: StringKind, text: s} }

// Object is a value with attributes, which this stub cannot reach.
func Object(Mapper) Value { return Value{kind: ObjectKind} }

// Kind is the value's type; the zero value is null.
func (v Value) Kind() Kind {
	if v.kind == "" {
		return NullKind
	}
	return v.kind
}

// String is the value's text: a string as it is, all else as JSON.
func (v Value) String() string { return v.text }

// WithMarks is the same value with more marks.
func (v Value) WithMarks(marks uint16) Value {
	v.marks |= marks
	return v
}

// HasMarks reports whether all of marks are set.
func (v Value) HasMarks(marks uint16) bool { return v.marks&marks == marks }

// UnmarshalJSON takes the kind from the JSON itself. Without it no job that
// has inputs could be decoded at all, with or without a placeholder.
func (v *Value) UnmarshalJSON(data []byte) error {
	var decoded any
	if err := json.Unmarshal(data, &decoded); err != nil {
		return fmt.Errorf("decoding an input's value: %w", err)
	}
	*v = Value{text: string(data)}
	switch d := decoded.(type) {
	case nil:
		*v = Null()
	case string:
		*v = String(d)
	case float64:
		v.kind = NumberKind
	case bool:
		v.kind = BoolKind
	case []any:
		v.kind = ArrayKind
	default:
		v.kind = ObjectKind
	}
	return nil
}
