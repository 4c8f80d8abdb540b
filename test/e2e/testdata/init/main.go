// Command init is the first process of a microVM that goes wrong. The kernel's command line is the same for all, so
// what to do is in a file of the initial RAM disk, /modules/fault.
//
//	silent  never says a word to the host
//	panics  ends, which the kernel answers with a panic
//	panics later  goes on as the guest agent, and the kernel panics when it has no memory left
package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

func main() {
	what, err := os.ReadFile("/modules/fault")
	fmt.Println("init:", strings.TrimSpace(string(what)), err)
	switch strings.TrimSpace(string(what)) {
	case "panics":
		os.Exit(1)
	case "panics later":
		fmt.Println("init:", becomeAgent())
		os.Exit(1)
	}
	for {
		time.Sleep(time.Hour)
	}
}

// becomeAgent returns only if it cannot.
func becomeAgent() error {
	const proc, agent = "/proc", "/modules/fireguest"
	if err := os.MkdirAll(proc, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("proc", proc, "proc", 0, ""); err != nil {
		return err
	}
	if err := os.WriteFile(proc+"/sys/vm/panic_on_oom", []byte("1"), 0o644); err != nil {
		return err
	}
	if err := syscall.Unmount(proc, 0); err != nil {
		return err
	}
	return syscall.Exec(agent, []string{"/init"}, os.Environ())
}
