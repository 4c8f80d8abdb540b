package qemu

import (
	"fmt"
	"io"
	"sync"
)

// consoleTail is how much of the console's end is kept in memory, whatever the file's limit: a kernel's last words
// come last.
const consoleTail = 8 << 10

// console takes all that the guest writes to its console and keeps a bounded part: the beginning in a file, the end
// in memory. Writing never fails, for qemu would stand still.
type console struct {
	mu     sync.Mutex
	file   io.Writer
	room   int64 // bytes that the file may still take
	limit  int64
	closed bool // the marker is written, or the file failed
	total  int64
	tail   []byte
}

func newConsole(file io.Writer, limit int64) *console {
	return &console{file: file, room: limit, limit: limit}
}

// Write implements io.Writer. It always takes everything.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total += int64(len(p))
	c.tail = append(c.tail, p...)
	if len(c.tail) > 2*consoleTail {
		c.tail = append([]byte(nil), c.tail[len(c.tail)-consoleTail:]...)
	}
	if c.closed {
		return len(p), nil
	}
	part := p[:min(int64(len(p)), c.room)]
	if _, err := c.file.Write(part); err != nil {
		c.closed = true // a full disk; the tail goes on
		return len(p), nil
	}
	c.room -= int64(len(part))
	if len(part) < len(p) {
		c.closed = true
		_, _ = fmt.Fprintf(c.file, "\n[firerunner: console output beyond %d bytes is dropped]\n", c.limit)
	}
	return len(p), nil
}

// seen returns how many bytes the guest wrote so far.
func (c *console) seen() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total
}

// last returns the last bytes that the guest wrote, at most limit.
func (c *console) last(limit int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.tail[max(0, len(c.tail)-limit):])
}

// CappedWriter passes on at most a number of bytes and drops the rest in silence. A shim's own log goes through
// it: what a guest can provoke must not fill a disk.
type CappedWriter struct {
	mu   sync.Mutex
	to   io.Writer
	room int64
}

// NewCappedWriter returns a writer that passes at most limit bytes on to w.
func NewCappedWriter(w io.Writer, limit int64) *CappedWriter {
	return &CappedWriter{to: w, room: limit}
}

// Write implements io.Writer. What is dropped counts as written.
func (c *CappedWriter) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	part := p[:min(int64(len(p)), c.room)]
	c.room -= int64(len(part))
	if len(part) > 0 {
		if n, err := c.to.Write(part); err != nil {
			return n, err
		}
	}
	return len(p), nil
}
