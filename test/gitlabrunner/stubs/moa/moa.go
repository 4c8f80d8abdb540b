// Package moa stands in for GitLab's expression language: it knows text
// without expressions and refuses the rest.
package moa

import (
	"errors"
	"strings"

	"gitlab.com/gitlab-org/moa/ast"
)

// ParseTemplate accepts text that holds no expression. Text with one is
// refused, so that a job that needs interpolation fails with this message
// instead of running with its placeholders unexpanded.
func ParseTemplate(text string) (ast.Expr, error) {
	if strings.Contains(text, "${{") {
		return nil, errors.New("this test build of gitlab-runner does not interpolate ${{ }}")
	}
	return ast.Text(text), nil
}

// EscapeTemplate returns text as it is; only native steps ask for it.
func EscapeTemplate(text string) string { return text }
