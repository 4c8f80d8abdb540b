package qemu

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	seedWait    = 30 * time.Second // for a guest to ask, and to take the answer
	seedRequest = 8 << 10          // bytes of requests on one connection
)

// seed is a microVM's metadata by the name of each part: what a guest is told at http://169.254.169.254/latest/NAME.
type seed map[string]string

// serve answers the requests of one connection, until the guest has no more or ctx ends.
func (s seed) serve(ctx context.Context, conn net.Conn) {
	in := bufio.NewReader(io.LimitReader(conn, seedRequest))
	for ctx.Err() == nil {
		_ = conn.SetDeadline(time.Now().Add(seedWait))
		request, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		name, under := strings.CutPrefix(request.URL.Path, "/latest/")
		text, known := s[name]
		answer := http.Response{
			StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Request: request,
			Header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}},
		}
		if !under || !known || request.Method != http.MethodGet {
			answer.StatusCode, text = http.StatusNotFound, ""
		}
		answer.ContentLength, answer.Body = int64(len(text)), io.NopCloser(strings.NewReader(text))
		if answer.Write(conn) != nil || request.Close {
			return
		}
	}
}
