package flintlock

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// firstWord is how long a host has for its first byte after the handshake.
const firstWord = time.Second

// heardOut waits, after a handshake, for the first byte of the host. In TLS 1.3 a client is done before the server has
// looked at its certificate (RFC 8446, 4.4.2 and 6): whoever writes at once learns of a refusal by a broken pipe, or
// not at all, and whoever listens first is told why. HTTP/2 servers speak first (RFC 9113, 3.4); one that does not is
// gone on with.
type heardOut struct {
	credentials.TransportCredentials
}

// ClientHandshake implements credentials.TransportCredentials.
func (h heardOut) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := h.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		return nil, nil, err
	}
	until := time.Now().Add(firstWord)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(until) {
		until = deadline
	}
	c := &heardConn{Conn: conn}
	var first [1]byte
	_ = conn.SetReadDeadline(until)
	n, err := conn.Read(first[:])
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		conn.Close()
		return nil, nil, err
	}
	_ = conn.SetReadDeadline(time.Time{})
	c.first = first[:n]
	return c, info, nil
}

// Clone implements credentials.TransportCredentials.
func (h heardOut) Clone() credentials.TransportCredentials {
	return heardOut{h.TransportCredentials.Clone()}
}

// heardConn gives back what was read of it already.
type heardConn struct {
	net.Conn
	mu    sync.Mutex
	first []byte
}

// Read implements net.Conn.
func (c *heardConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	if len(c.first) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		c.mu.Unlock()
		return n, nil
	}
	c.mu.Unlock()
	return c.Conn.Read(p)
}
