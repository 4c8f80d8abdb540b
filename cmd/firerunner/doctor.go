package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
)

// verdict is what came of one check.
type verdict string

const (
	good verdict = "ok"
	warn verdict = "warn" // works, but not as it could
	fail verdict = "fail" // does not work
	skip verdict = "skip" // was not looked at: Found says what and why
)

// finding is one line of doctor's report.
type finding struct {
	Check   string  `json:"check"`
	Verdict verdict `json:"verdict"`
	Found   string  `json:"found"`            // what was seen; for fail the cause
	Remedy  string  `json:"remedy,omitempty"` // what to do
}

// examination is one run of doctor.
type examination struct {
	app    *app
	cfg    *config.Config
	output func(ctx context.Context, program string, args ...string) ([]byte, error) // runs a program
	find   func(program string) (path string, err error)
	deep   bool          // hosts make a microVM, too
	resync time.Duration // how long is waited to learn hosts' resync period; 0: not at all
}

// check looks at one thing. It changes nothing outside of the state folder and ends within its context.
type check struct {
	name   string
	within time.Duration
	look   func(ctx context.Context) []finding
}

// checks returns every check in the order in which a fault in one explains faults in later ones.
func (e *examination) checks() []check {
	return []check{
		{"qemu", 30 * time.Second, e.qemu},
		{"image", 5 * time.Minute, e.image},
		{"accelerator", 2 * time.Minute, e.accelerator},
		{"isolation", 30 * time.Second, e.isolation},
		{"cpu and memory", 10 * time.Second, e.memory},
		{"disk", 10 * time.Second, e.disk},
		{"database", 30 * time.Second, e.database},
		{"controllers", 30 * time.Second, e.controllers},
		{"hosts", 10*time.Minute + e.resync, e.fleet},
		{"gitlab", time.Minute, e.gitlab},
		{"clock", 30 * time.Second, e.clock},
		{"webhook", 30 * time.Second, e.webhook},
		{"webhook", time.Minute, e.hooks},
	}
}

func newDoctorCommand(a *app) *cobra.Command {
	var deep bool
	var resync time.Duration
	command := &cobra.Command{
		Use:   "doctor",
		Short: "Check every prerequisite and say what to do",
		Long: `Checks what FireRunner needs, by doing it where that is the only way to know: it
boots a kernel to see whether KVM works, and asks GitLab with your token. Each
finding is ok, warn, fail, or skip (not looked at), with its cause and what to do.

Exit status 1 if any check failed. It may run beside a daemon.`,
		Example: `  firerunner doctor --config config.yaml
  firerunner doctor --json | jq '.checks[] | select(.verdict != "ok")'`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return a.doctor(command.Context(), deep || resync > 0, resync)
		},
	}
	command.Flags().BoolVar(&deep, "deep", false, "have each host with flintlockd make a microVM whose guest calls FireRunner, and remove it")
	command.Flags().DurationVar(&resync, "resync", 0, "with --deep: wait this long to learn how often flintlockd boots dead microVMs again")
	return command
}

func (a *app) doctor(ctx context.Context, deep bool, resync time.Duration) error {
	cfg, err := a.load(false)
	e := examination{app: a, cfg: cfg, output: output, find: exec.LookPath, deep: deep, resync: resync}
	found := configuration(a.file(), cfg.Warnings(), err)
	if !a.json {
		a.show(found...)
	}
	for _, c := range e.checks() {
		if ctx.Err() != nil {
			return firerunner.Errorf(firerunner.Unavailable, "doctor was interrupted: %w", context.Cause(ctx))
		}
		limited, cancel := context.WithTimeout(ctx, c.within)
		seen := c.look(limited)
		cancel()
		for i := range seen {
			seen[i].Check = c.name
		}
		if !a.json {
			a.show(seen...)
		}
		found = append(found, seen...)
	}
	failed := 0
	for _, f := range found {
		if f.Verdict == fail {
			failed++
		}
	}
	report := struct {
		OK     bool      `json:"ok"`
		Checks []finding `json:"checks"`
	}{failed == 0, found}
	if err := a.print(report, func(w io.Writer) error { return nil }); err != nil {
		return err
	}
	if failed > 0 {
		return silentError{firerunner.Errorf(firerunner.Internal, "%d checks failed", failed)}
	}
	return nil
}

// show prints findings as they come: some checks take their time.
func (a *app) show(found ...finding) {
	for _, f := range found {
		fmt.Fprintf(a.Stdout, "%-4s  %-15s %s\n", f.Verdict, f.Check, f.Found)
		if f.Remedy != "" {
			fmt.Fprintf(a.Stdout, "      %-15s -> %s\n", "", f.Remedy)
		}
	}
}

// output runs a program and returns what it wrote.
func output(ctx context.Context, program string, args ...string) ([]byte, error) {
	return exec.CommandContext(ctx, program, args...).Output()
}

// configuration makes findings of what is wrong with the configuration, secrets that others can read among it; where
// nothing is, of what is permitted and should be known.
func configuration(file string, warnings config.Problems, err error) []finding {
	if file == "" {
		file = "no file; environment and flags"
	}
	if err == nil {
		found := []finding{{"configuration", good, file + "; its secrets are readable by nobody else", ""}}
		for _, w := range warnings {
			remedy := w.Hint
			w.Hint = ""
			found = append(found, finding{"configuration", warn, w.String(), remedy})
		}
		return found
	}
	var found []finding
	for _, p := range problemsOf(err) {
		remedy := cmp.Or(p.Hint, "correct it; config.example.yaml explains each key")
		p.Hint = ""
		found = append(found, finding{"configuration", fail, p.String(), remedy})
	}
	return found
}

// untried makes a finding of what could not be looked at because of another finding.
func untried(err error) finding { return finding{"", warn, err.Error(), firerunner.HintOf(err)} }

// failing makes a finding of an error; remedy is for an error that has no hint of its own.
func failing(err error, remedy string) finding {
	return finding{"", fail, err.Error(), cmp.Or(firerunner.HintOf(err), remedy)}
}
