package main

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// inNamespace runs a test in a network namespace that it shares with nobody. The thread is not used for anything
// else afterwards: it ends with the goroutine.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	done := make(chan bool)
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- true
			return
		}
		f()
	}()
	if <-done {
		t.Skip("no network namespace without privileges: run the tests as root")
	}
}
