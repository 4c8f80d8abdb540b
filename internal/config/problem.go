package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/firerunner/firerunner"
)

// Problem is one thing that is wrong, and where.
type Problem struct {
	Source  string `json:"source,omitempty"` // the file, "environment" or "flags"
	Line    int    `json:"line,omitempty"`   // in the file; 0: no line
	Key     string `json:"key,omitempty"`    // dotted; the variable's name for the environment
	Message string `json:"message"`          // never holds a secret
	Hint    string `json:"hint,omitempty"`
}

// String is source:line: key: message (hint), with only what is known.
func (p Problem) String() string {
	var b strings.Builder
	if p.Source != "" {
		b.WriteString(p.Source)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Message)
	if p.Hint != "" {
		b.WriteString(" (" + p.Hint + ")")
	}
	return b.String()
}

// Problems is everything that is wrong; it is the cause in the error that Load and Validate return.
type Problems []Problem

// Error has one problem per line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// err makes the error for users: nil if nothing is wrong.
func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	ps = slices.Clone(ps)
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(layerOf(a), layerOf(b)), cmp.Compare(a.Line, b.Line))
	})
	return &firerunner.Error{Code: firerunner.Invalid, Message: "the configuration is wrong:\n" + ps.Error(), Err: ps}
}

// layerOf sorts what has a line first, then what is missing, then environment and flags.
func layerOf(p Problem) int {
	switch {
	case p.Source == sourceEnvironment:
		return 2
	case p.Source == sourceFlags:
		return 3
	case p.Line == 0:
		return 1
	}
	return 0
}

const (
	sourceEnvironment = "environment"
	sourceFlags       = "flags"
)

// origin is where a value came from.
type origin struct {
	source string // as in Problem
	line   int
	name   string // as the user wrote it: the variable's name, or the dotted key
}

// at returns a problem with the place of a key; keys that were not given have the file's name at most.
func (c *Config) at(key, format string, args ...any) Problem {
	p := Problem{Key: key, Message: fmt.Sprintf(format, args...)}
	if o, ok := c.origins[key]; ok {
		p.Source, p.Line, p.Key = o.source, o.line, o.name
	} else if o, ok := c.origins[""]; ok {
		p.Source = o.source
	}
	return p
}

func (p Problem) withHint(format string, args ...any) Problem {
	p.Hint = fmt.Sprintf(format, args...)
	return p
}
