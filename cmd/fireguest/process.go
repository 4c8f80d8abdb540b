package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// status is how a process ended.
type status struct {
	exitCode int    // -1 when a signal ended it
	signal   string // which
}

// process is a running gitlab-runner, as the supervisor needs it.
type process struct {
	signal func(syscall.Signal) error
	ended  <-chan status
}

// reaper takes every process that ends: PID 1 inherits all orphans. Those that it has started itself, it tells
// of. It holds its lock while it starts one, so that a process that ends at once is not taken for an orphan.
type reaper struct {
	mu       sync.Mutex
	children map[int]chan status
}

// newReaper starts to reap, and never ends: it is PID 1's for as long as there is a PID 1.
func newReaper() *reaper {
	r := &reaper{children: map[int]chan status{}}
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	go func() {
		for range died {
			r.reap()
		}
	}()
	return r
}

func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if ended, ours := r.children[pid]; ours {
			delete(r.children, pid)
			ended <- statusOf(ws)
		}
	}
}

func statusOf(ws syscall.WaitStatus) status {
	if ws.Signaled() {
		return status{exitCode: -1, signal: unix.SignalName(ws.Signal())}
	}
	return status{exitCode: ws.ExitStatus()}
}

// command is a program to be started as an unprivileged user.
type command struct {
	path       string
	args, env  []string
	dir        string
	uid, gid   uint32
	output     *os.File // standard output and error; standard input is empty
	privileges bool     // programs with the set-user-ID bit may give privileges (an image with sudo)
}

// start starts a program in a session of its own, without any capability, even in its bounding set, and, unless
// privileges says otherwise, without a way to gain any: no_new_privs makes set-user-ID bits mean nothing.
func (r *reaper) start(c command) (*process, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	type result struct {
		pid int
		err error
	}
	ended, started := make(chan status, 1), make(chan result)
	go func() {
		// no_new_privs and the bounding set belong to a thread and go over to its children. This thread ends
		// with the goroutine, because it is never unlocked.
		runtime.LockOSThread()
		if !c.privileges {
			if err := renounce(); err != nil {
				started <- result{0, err}
				return
			}
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		pid, err := syscall.ForkExec(c.path, c.args, &syscall.ProcAttr{
			Dir: c.dir, Env: c.env, Files: []uintptr{null.Fd(), c.output.Fd(), c.output.Fd()},
			Sys: &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: c.uid, Gid: c.gid}},
		})
		if err == nil {
			r.children[pid] = ended
		}
		started <- result{pid, err}
	}()
	got := <-started
	if got.err != nil {
		return nil, fmt.Errorf("start %s: %w", c.path, got.err)
	}
	return &process{
		signal: func(s syscall.Signal) error { return syscall.Kill(got.pid, s) },
		ended:  ended,
	}, nil
}

// renounce gives up, for this thread and its children to come, every way to privileges.
func renounce() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	for capability := uintptr(0); capability <= unix.CAP_LAST_CAP; capability++ {
		// CAP_SETUID and CAP_SETGID are still needed to become the job's user; that user loses what it may
		// with the change, and the bounding set says that it never gets anything back.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil && err != unix.EINVAL {
			return fmt.Errorf("drop capability %d: %w", capability, err)
		}
	}
	return nil
}
