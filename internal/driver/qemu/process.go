package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// process is a process that cannot be mistaken for a later one with the same pid.
type process struct {
	pid int
	fd  *os.File // pidfd
}

// openProcess returns nil where the process with that pid and start time is not there any more. A start time of
// 0 is for a child of ours that nobody has reaped: its pid cannot have been used again.
func openProcess(pid int, start uint64) (*process, error) {
	if pid <= 0 {
		return nil, nil
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) { // EINVAL: it is a thread of another process by now
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening process %d: %w", pid, err)
	}
	p := &process{pid: pid, fd: os.NewFile(uintptr(fd), "pidfd")}
	if start != 0 {
		if stat, err := readStat(pid); err != nil || stat.start != start {
			p.close()
			return nil, nil
		}
	}
	return p, nil
}

// ended reports whether the process has ended, reaped or not.
func (p *process) ended() bool {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return true
	}
	var done bool
	_ = raw.Control(func(fd uintptr) { done = readable(fd) })
	return done
}

// wait returns nil once the process has ended.
func (p *process) wait(ctx context.Context) error {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	_ = p.fd.SetReadDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = p.fd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := raw.Read(readable); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	return nil
}

// kill ends it at once; that it has ended already is no error.
func (p *process) kill() {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
}

// reap removes a child of ours that has ended from the process table. It does nothing to others' children.
func (p *process) reap() {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.Waitid(unix.P_PIDFD, int(fd), nil, unix.WEXITED|unix.WNOHANG, nil)
	})
}

func (p *process) close() { _ = p.fd.Close() }

// readable says whether a pidfd's process has ended: pidfd_open(2).
func readable(fd uintptr) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n == 1
}

// procStat is what of /proc/<pid>/stat is needed here: proc_pid_stat(5).
type procStat struct {
	state   byte
	session int
	start   uint64 // clock ticks after boot
}

func readStat(pid int) (procStat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, err
	}
	return parseStat(b)
}

// parseStat looks behind the last parenthesis: the name before it may hold anything.
func parseStat(b []byte) (procStat, error) {
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return procStat{}, errors.New("too few fields in a process's stat")
	}
	session, err1 := strconv.Atoi(string(fields[3]))
	start, err2 := strconv.ParseUint(string(fields[19]), 10, 64)
	return procStat{state: fields[0][0], session: session, start: start}, errors.Join(err1, err2)
}

// endRemnants ends every process of a record's microVM that is alive and returns how many there were. They are known
// by their uid together with the session that the shim opened, or with the home that it was given (a crash may have
// come before its pid was recorded); byUID takes the uid alone, where it is theirs alone. Zombies are left to
// their parents.
func endRemnants(r record, home string, byUID bool) (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	if leader, err := readStat(r.PID); err == nil && leader.start != r.PIDStart {
		r.PID = 0 // the pid belongs to another process now, and so may the session
	}
	found := 0
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		stat, err := readStat(pid)
		if err != nil || stat.state == 'Z' || stat.state == 'X' {
			continue
		}
		uid, err := readUID(pid)
		if err != nil || uid != r.UID {
			continue
		}
		ours := r.PID > 0 && stat.session == r.PID || byUID && uid > 0 || hasHome(pid, home)
		if !ours {
			continue
		}
		p, err := openProcess(pid, stat.start)
		if err != nil {
			return found, err
		}
		if p != nil {
			p.kill()
			p.close()
			found++
		}
	}
	return found, nil
}

// hasHome reports whether a process was started with this home folder.
func hasHome(pid int, home string) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	return err == nil && bytes.Contains(append([]byte{0}, b...), []byte("\x00HOME="+home+"\x00"))
}

// readUID returns the real uid of a process. The owner of /proc/<pid> is not it: that is root for some.
func readUID(pid int) (int, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, err
	}
	_, rest, ok := bytes.Cut(b, []byte("\nUid:"))
	fields := bytes.Fields(rest)
	if !ok || len(fields) == 0 {
		return 0, errors.New("no uid in a process's status")
	}
	return strconv.Atoi(string(fields[0]))
}

// runningUIDs returns the real uids of all processes.
func runningUIDs() (map[int]bool, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	uids := make(map[int]bool)
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if uid, err := readUID(pid); err == nil {
				uids[uid] = true
			}
		}
	}
	return uids, nil
}
