// Command fireguest is the guest agent: PID 1 of a microVM that lives for one job.
//
// As /init of the initial RAM disk it loads the drivers, mounts the root disk and makes it the root; then, as the
// same process, it prepares the system, says hello to the host over a virtio-serial port, receives what the one
// job needs, runs the stock gitlab-runner as an unprivileged user, reports what that says, and ends the microVM.
// A microVM never outlives its agent: whatever goes wrong here ends it.
//
// Where its host has no such port, it reads from the metadata service whom to call, and does the rest over TLS. On a
// system that is not ours it is a service (fireguest --service) and does the same, but leaves the system as it is.
//
// It is kept small, because it is PID 1 and because every millisecond of its start is added to each job: the
// standard library, golang.org/x/sys, and the guest channel.
package main

import (
	"fmt"
	"os"
	"runtime/debug"
)

// version is set by the build: -ldflags "-X main.version=...".
var version = ""

func main() {
	if os.Getpid() == 1 {
		boot()
		return
	}
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println("fireguest", agentVersion())
		return
	}
	if len(os.Args) == 2 && os.Args[1] == "--service" {
		if err := serve(); err != nil {
			fmt.Fprintln(os.Stderr, "fireguest:", err)
			os.Exit(1)
		}
		return
	}
	fmt.Fprintln(os.Stderr, "fireguest: runs as the first process of a microVM, or there as fireguest --service; try --version")
	os.Exit(2)
}

// agentVersion is the version that the build set, or what the Go tool knows about the source.
func agentVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "0.0.0-" + s.Value[:12]
		}
	}
	return "0.0.0-dev"
}
