package qemu

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
)

// hold takes the lock of an ID, across processes, and waits for it until ctx is done. The lock file is gone again
// once nothing of the microVM is left.
func (f folder) hold(ctx context.Context, id string) (release func(), err error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		file, err := f.tryHold(id)
		if err != nil {
			return nil, firerunner.Errorf(firerunner.Unavailable, "qemu: locking microVM %s: %w", id, err)
		}
		if file != nil {
			return func() {
				if !f.exists(id) {
					_ = os.Remove(f.lock(id))
				}
				_ = file.Close()
			}, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, firerunner.Errorf(firerunner.Unavailable, "qemu: waiting for the lock of microVM %s: %w", id, context.Cause(ctx))
		}
	}
}

// tryHold returns nil where another holds the lock. The file may have been removed between opening and locking
// it; only a lock on the file that has the name now counts.
func (f folder) tryHold(id string) (*os.File, error) {
	file, err := os.OpenFile(f.lock(id), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, err
	}
	held, err1 := file.Stat()
	named, err2 := os.Stat(f.lock(id))
	if err1 != nil || err2 != nil || !os.SameFile(held, named) {
		_ = file.Close()
		return nil, nil
	}
	return file, nil
}

// held reports whether someone holds the lock of an ID now.
func (f folder) held(id string) bool {
	file, err := os.Open(f.lock(id))
	if err != nil {
		return false
	}
	defer file.Close()
	err = unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	return errors.Is(err, unix.EWOULDBLOCK)
}
