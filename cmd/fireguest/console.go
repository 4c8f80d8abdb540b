package main

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// console writes one line for each phase, with the seconds since the kernel started: enough to see where a boot
// spends its time, and where it ended. Nothing that a job says and no credential is ever written to it.
type console struct {
	w      io.Writer
	uptime func() time.Duration
	kernel func() []byte // the end of the kernel's log; may be nil

	mu   sync.Mutex
	kept []byte // the end of what was written
}

// maxKept is how much of the console and of the kernel's log is kept for the host, in bytes of each.
const maxKept = 4 << 10

func (c *console) phase(what string) {
	c.line(fmt.Sprintf("fireguest: %s %.3f\n", what, c.uptime().Seconds()))
}

func (c *console) problem(err error) {
	c.line(fmt.Sprintf("fireguest: error: %v %.3f\n", err, c.uptime().Seconds()))
}

func (c *console) line(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = append(c.kept, text...)
	c.kept = slices.Delete(c.kept, 0, max(0, len(c.kept)-maxKept))
	fmt.Fprint(c.w, text)
}

// tail is the end of the kernel's log and of what the agent has said, for a host that does not see the console.
func (c *console) tail() []byte {
	var text []byte
	if c.kernel != nil {
		text = c.kernel()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return append(text, c.kept...)
}

// kernelLog is the end of the kernel's log: syslog(2), SYSLOG_ACTION_READ_ALL.
func kernelLog() []byte {
	const readAll = 3
	text := make([]byte, maxKept)
	n, err := unix.Klogctl(readAll, text)
	if err != nil {
		return nil
	}
	return text[:n]
}

// uptime is the time since the kernel started.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
