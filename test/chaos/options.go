package main

import (
	"fmt"
	"io"
	"time"
)

// Options is how one run is.
type Options struct {
	Seed        uint64
	Controllers int // on one PostgreSQL, with one fleet of scripted guests
	Jobs        int // for them
	Kills       int // kill -9 of controllers
	VMKills     int // of microVMs that run a job

	// Calm has microVMs killed once the controllers are left alone: who tells GitLab is not killed meanwhile.
	Calm bool

	RealJobs    int // for one more controller, on SQLite, whose microVMs are real; 0: there is none
	RealVMKills int // among VMKills

	Program  string // bin/firerunner
	ImageDir string // of real microVMs
	Accel    string // kvm, tcg or auto
	Dir      string // keeps logs and rows of a run that failed

	Patience time.Duration // once nothing is done to anybody any more, until all is quiet
	Tell     io.Writer     // what goes on
}

// Whole is what `make chaos` runs.
func Whole(seed uint64) Options {
	return Options{
		Seed: seed, Controllers: 2, Jobs: 194, Kills: 20, VMKills: 10, RealJobs: 6, RealVMKills: 2,
		Patience: 5 * time.Minute, Accel: "auto",
	}
}

// Short is what `go test` runs: the same on scripted guests alone.
func Short(seed uint64) Options {
	return Options{Seed: seed, Controllers: 2, Jobs: 40, Kills: 5, VMKills: 3, Calm: true, Patience: time.Minute}
}

// command is how to run it again.
func (o Options) command() string {
	return fmt.Sprintf("make chaos SEEDS=1 FROM=%d", o.Seed)
}

// Which of a seed's numbers is whose: what one part draws does not depend on when another one does.
const (
	drawPlan = iota + 1
	drawKills
	drawVMKills
	drawRealVMKills
	drawFaults
)
