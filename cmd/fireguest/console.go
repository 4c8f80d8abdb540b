package main

import (
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// console writes one line for each phase, with the seconds since the kernel started: enough to see where a boot
// spends its time, and where it ended. Nothing that a job says and no credential is ever written to it.
type console struct {
	w      io.Writer
	uptime func() time.Duration
}

func (c *console) phase(what string) {
	fmt.Fprintf(c.w, "fireguest: %s %.3f\n", what, c.uptime().Seconds())
}

func (c *console) problem(err error) {
	fmt.Fprintf(c.w, "fireguest: error: %v %.3f\n", err, c.uptime().Seconds())
}

// uptime is the time since the kernel started.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
