// Command firerunner gives every GitLab CI job a microVM of its own: the daemon, and the tools to set it up and
// look into it. Each subcommand has a file of its own; this package alone wires the rooms together.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return Main{
		Args:    os.Args[1:],
		Environ: os.Environ(),
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
	}.Run(ctx)
}

// Main is one run of the program. It is a value, so that tests run it whole.
type Main struct {
	Args    []string // without the program's name
	Environ []string // in the form of os.Environ
	Stdin   io.Reader
	Stdout  io.Writer // results only
	Stderr  io.Writer // everything else
}

// Run runs the command that Args name and returns the process's exit status: see firerunner.ExitStatus. The first
// SIGINT or SIGTERM is the context's end.
func (m Main) Run(ctx context.Context) int {
	a := &app{Main: m}
	return a.run(ctx)
}
