package qemu

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/reportlog"
)

// cause is why the shim itself ended a microVM; empty if it did not.
type cause string

const (
	causeDeadline  cause = "ended at its deadline"
	causeDestroyed cause = "destroyed"
	causeDiskFull  cause = "the disk of its host is full"
	causeShutdown  cause = "ended with its shim, which was told to end"
)

// ending is what is known about how qemu ended.
type ending struct {
	Cause    cause
	State    *os.ProcessState
	Console  string // the end of it; the guest's word, not to be believed further than a message
	Stderr   string
	OOMKills int // by the cgroup, since the start
	LimitMiB int
	Dir      string // of the microVM
}

// panicLine is what the kernel prints last: kernel/panic.c.
var panicLine = regexp.MustCompile(`Kernel panic - not syncing: [^\r\n]*`)

// report is the last report of a microVM. It states facts only: qemu exits with 0 after a kernel panic too, so
// whether the job was finished is the guest's word, in the reports before.
func (e ending) report() firerunner.GuestReport {
	r := firerunner.GuestReport{Kind: firerunner.ReportExited}
	status, _ := e.State.Sys().(syscall.WaitStatus)
	r.ExitCode = e.State.ExitCode()
	if status.Signaled() {
		r.ExitCode = 128 + int(status.Signal()) // as shells say it
	}
	panicked := panicLine.FindString(e.Console)
	switch {
	case e.Cause == causeDiskFull:
		r.Message = noRoom(e.Dir)
	case e.Cause != "":
		r.Message = string(e.Cause)
	case status.Signaled() && e.OOMKills > 0:
		r.Message = fmt.Sprintf("killed for want of memory: qemu and shim reached the limit of %d MiB", e.LimitMiB)
	case status.Signaled():
		r.Message = fmt.Sprintf("qemu was killed by signal %d (%s)", status.Signal(), status.Signal())
	case r.ExitCode != 0:
		r.Message = fmt.Sprintf("qemu exited with status %d: %s", r.ExitCode, lastLine(e.Stderr))
	case panicked != "":
		r.Message = "kernel panic in the guest: " + strings.TrimPrefix(panicked, "Kernel panic - not syncing: ")
	default:
		r.Message = "the guest turned its machine off"
	}
	r.Message = reportlog.Clean(r.Message, 500)
	return r
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// oomKills reads how many processes of the group the kernel killed: memory.oom_control (v1) and memory.events
// (v2) both say it in a line "oom_kill N".
func oomKills(file string) int {
	if file == "" {
		return 0
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(b) {
		if fields := strings.Fields(string(line)); len(fields) == 2 && fields[0] == "oom_kill" {
			n, _ := strconv.Atoi(fields[1])
			return n
		}
	}
	return 0
}

// findProgram says what is missing and how to get it.
func findProgram(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", firerunner.Errorf(firerunner.Unavailable, "qemu: %w", err).
			WithHint("install QEMU: apt-get install qemu-system-x86 qemu-utils")
	}
	return path, nil
}
