package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
)

// lockEvery is how often a lock that another process holds is tried again. The kernel wakes nobody who also
// wants to be able to give up.
const lockEvery = 100 * time.Millisecond

// lock takes a file lock (flock), which ends with the process that holds it. It waits for it until the context
// ends. The function that it returns gives it back.
func lock(ctx context.Context, path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Unavailable, "open the lock: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			_ = f.Close()
			return nil, firerunner.Errorf(firerunner.Unavailable, "lock %s: %w", path, err)
		}
		again := time.NewTimer(lockEvery)
		select {
		case <-ctx.Done():
			again.Stop()
			_ = f.Close()
			return nil, firerunner.Errorf(firerunner.Unavailable, "wait for another build (%s): %w", path, ctx.Err())
		case <-again.C:
		}
	}
}

// scratch makes a directory for one build below dir, and removes those whose builders are dead. The lock file
// stands beside its directory, so that the directory can be moved away whole.
func scratch(ctx context.Context, dir string) (path string, remove func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, firerunner.Errorf(firerunner.Unavailable, "make the image directory: %w", err)
	}
	sweep(dir)
	for {
		path, err = os.MkdirTemp(dir, "build-")
		if err != nil {
			return "", nil, firerunner.Errorf(firerunner.Unavailable, "make a build directory: %w", err)
		}
		unlock, err := lock(ctx, path+".lock")
		if err != nil {
			return "", nil, err
		}
		// Another's sweep may have had our lock file before we had its lock, and have taken us for dead.
		_, lockErr := os.Stat(path + ".lock")
		if err = errors.Join(lockErr, os.Chmod(path, 0o755)); errors.Is(err, os.ErrNotExist) {
			_ = os.RemoveAll(path)
			unlock()
			continue
		}
		if err != nil {
			unlock()
			return "", nil, firerunner.Errorf(firerunner.Unavailable, "make a build directory: %w", err)
		}
		return path, func() {
			_ = os.RemoveAll(path)
			_ = os.Remove(path + ".lock")
			unlock()
		}, nil
	}
}

// sweep removes the directories of dead builders. One that was made a moment ago, and whose lock is not there
// yet, is left alone.
func sweep(dir string) {
	found, _ := filepath.Glob(filepath.Join(dir, "build-*.lock"))
	for _, path := range found {
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(path[:len(path)-len(".lock")])
			_ = os.Remove(path)
		}
		_ = f.Close()
	}
}
