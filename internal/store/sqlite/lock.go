package sqlite

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/firerunner/firerunner"
)

// fileLock is an flock on a file beside the database. The kernel gives it up when the process ends, however it ends,
// so that a crash leaves no lock behind; the file itself stays, because removing it is a race.
type fileLock struct{ f *os.File }

func openLock(path string) (*fileLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, fileError(err, "open the lock %s", path)
	}
	return &fileLock{f: f}, nil
}

// try takes the lock if it is free.
func (l *fileLock) try() (ok bool, err error) {
	for {
		err := syscall.Flock(int(l.f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EWOULDBLOCK):
			return false, nil
		default:
			return false, fileError(err, "take the lock %s", l.f.Name())
		}
	}
}

// release gives the lock up: closing the only descriptor does.
func (l *fileLock) release() { _ = l.f.Close() }

// lockPoll is how often waitLock looks again. An flock that waits in the kernel could not be given up with ctx.
const lockPoll = 10 * time.Millisecond

// waitLock takes the lock at path and waits for it as long as ctx lives.
func waitLock(ctx context.Context, path string) (*fileLock, error) {
	l, err := openLock(path)
	if err != nil {
		return nil, err
	}
	again := time.NewTicker(lockPoll)
	defer again.Stop()
	for {
		ok, err := l.try()
		if err != nil {
			l.release()
			return nil, err
		}
		if ok {
			return l, nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			l.release()
			return nil, firerunner.Errorf(firerunner.Unavailable, "open store: wait for the lock %s: %w", path, context.Cause(ctx))
		}
	}
}

// Hold makes this process the one that serves the database at path, until release or its end. One SQLite file has one
// serving process: only then may the queue take back, at once, the steps that a dead process was running. It fails with
// Conflict, naming the process that has it, if there is another.
func Hold(path string) (release func(), err error) {
	if err := prepareFile(path); err != nil {
		return nil, err
	}
	l, err := openLock(path + ".lock")
	if err != nil {
		return nil, err
	}
	ok, err := l.try()
	if err != nil {
		l.release()
		return nil, err
	}
	if !ok {
		defer l.release()
		return nil, firerunner.Errorf(firerunner.Conflict, "another firerunner, %s, serves %s", l.holder(), path).
			WithHint("stop it first, or give this one another data folder")
	}
	if err := l.sign(); err != nil {
		l.release()
		return nil, fileError(err, "write %s.lock", path)
	}
	return l.release, nil
}

// sign writes down who has the lock.
func (l *fileLock) sign() error {
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	_, err := l.f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// holder says who has the lock; between taking and signing it nobody can know.
func (l *fileLock) holder() string {
	text, err := io.ReadAll(io.LimitReader(l.f, 32))
	pid, convErr := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || convErr != nil || pid <= 0 {
		return "of unknown process ID"
	}
	return "process " + strconv.Itoa(pid)
}
