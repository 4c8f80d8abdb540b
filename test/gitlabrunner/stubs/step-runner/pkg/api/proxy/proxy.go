// Package proxy would join a step service to a pair of streams.
package proxy

import (
	"errors"
	"io"
)

// Proxy always fails.
func Proxy(io.Reader, io.Writer, any) error {
	return errors.New("this test build of gitlab-runner has no step service")
}
