// Command chaos holds the product to its promise: each job runs exactly once, whatever dies. It queues jobs in an emulated
// GitLab that loses, doubles and reorders its webhooks and answers with errors, kills controllers and microVMs at moments
// that a seed decides, waits for quiet, and looks at what happened. `make chaos` runs it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ok, err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// run runs the seeds that the arguments name; ok: all was true of all of them.
func run(ctx context.Context, args []string) (ok bool, err error) {
	whole := Whole(0)
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	seed := flags.Uint64("seed", 1, "the first seed")
	seeds := flags.Int("seeds", 1, "how many seeds, one after the other")
	asJSON := flags.Bool("json", false, "print one JSON object for each seed")
	quietly := flags.Bool("quiet", false, "do not tell what goes on")
	keep := flags.String("dir", "build/chaos", "keep logs of seeds that fail below this `folder`")
	flags.IntVar(&whole.Controllers, "controllers", whole.Controllers, "controllers on PostgreSQL")
	flags.IntVar(&whole.Jobs, "jobs", whole.Jobs, "jobs for them")
	flags.IntVar(&whole.RealJobs, "real-jobs", whole.RealJobs, "jobs in real microVMs; 0: none are made")
	flags.IntVar(&whole.Kills, "kills", whole.Kills, "kill -9 of controllers")
	flags.IntVar(&whole.VMKills, "vm-kills", whole.VMKills, "kills of microVMs")
	flags.IntVar(&whole.RealVMKills, "real-vm-kills", whole.RealVMKills, "of these, of real ones")
	flags.StringVar(&whole.Program, "program", "bin/firerunner", "the `file` to run")
	flags.StringVar(&whole.ImageDir, "images", imageDir(), "`folder` with the image of real microVMs")
	flags.DurationVar(&whole.Patience, "patience", whole.Patience, "wait so long for quiet after the last kill")
	flags.StringVar(&whole.Accel, "accel", whole.Accel, "auto, kvm or tcg")
	if err := flags.Parse(args); err != nil {
		return false, err
	}
	if whole.Program, err = filepath.Abs(whole.Program); err != nil {
		return false, err
	}
	if !*quietly {
		whole.Tell = os.Stderr
	}
	ok = true
	for n := range *seeds {
		o := whole
		o.Seed = *seed + uint64(n)
		o.Dir = filepath.Join(*keep, fmt.Sprint(o.Seed))
		report := Run(ctx, o)
		if *asJSON {
			err = json.NewEncoder(os.Stdout).Encode(report)
		} else {
			_, err = fmt.Print(report)
		}
		if err != nil {
			return false, err
		}
		ok = ok && len(report.Problems) == 0
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
	}
	return ok, nil
}

// imageDir is where the Makefile has the images.
func imageDir() string {
	if dir := os.Getenv("FIRERUNNER_IMAGE_DIR"); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 {
		return "/var/cache/firerunner/images"
	}
	return filepath.Join(os.Getenv("HOME"), ".cache/firerunner/images")
}
