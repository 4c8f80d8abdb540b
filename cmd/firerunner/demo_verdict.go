package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// settleTime is how long the last microVMs may take to be gone after the pipeline has ended.
const settleTime = 15 * time.Second

// leftovers is what must be nothing when all is done.
type leftovers struct {
	VMs      int `json:"vms"`
	Runners  int `json:"runners"`  // in GitLab
	Overlays int `json:"overlays"` // disks of microVMs
	Rows     int `json:"rows"`     // runners in the store that are not gone
}

func (l leftovers) none() bool { return l == leftovers{} }

func (d *demo) left(ctx context.Context) (leftovers, error) {
	vms, err := d.daemon.driver.List(ctx)
	if err != nil {
		return leftovers{}, err
	}
	live, err := d.daemon.store.Runners(ctx, firerunner.RunnerQuery{Live: true})
	if err != nil {
		return leftovers{}, err
	}
	overlays := 0
	err = filepath.WalkDir(d.dir, func(path string, _ os.DirEntry, err error) error {
		if filepath.Ext(path) == ".qcow2" {
			overlays++
		}
		if os.IsNotExist(err) {
			return nil // removed while we look
		}
		return err
	})
	return leftovers{VMs: max(len(vms), d.fleet.machines()), Runners: len(d.gitlab.Runners()), Overlays: overlays, Rows: len(live)}, err
}

// settle waits until nothing is left, for settleTime at most.
func (d *demo) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	tick := time.NewTicker(refresh)
	defer tick.Stop()
	for {
		if l, err := d.left(ctx); err == nil && l.none() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// verdict says whether all is as it should be; an error if not.
func (d *demo) verdict(ctx context.Context) error {
	left, err := d.left(ctx)
	if err != nil {
		return err
	}
	pipeline, _ := d.gitlab.Pipeline(d.pipeline)
	wrong := d.wrong(pipeline)
	took := time.Since(d.began).Round(100 * time.Millisecond)
	d.say("\npipeline %d: %s after %s\n%d VMs, %d runners, %d overlays left\n", pipeline.ID, pipeline.Status, took, left.VMs, left.Runners, left.Overlays)
	if d.json {
		result := struct {
			Pipeline string    `json:"pipeline"`
			Seconds  float64   `json:"seconds"`
			Left     leftovers `json:"left"`
			Wrong    []string  `json:"wrong"`
		}{string(pipeline.Status), took.Seconds(), left, append([]string{}, wrong...)}
		if err := d.print(result, func(io.Writer) error { return nil }); err != nil {
			return err
		}
	}
	switch {
	case len(wrong) > 0:
		return firerunner.Errorf(firerunner.Internal, "the demo went wrong: %s", wrong[0]).WithHint("firerunner demo --log demo.log, then read demo.log")
	case !left.none():
		return firerunner.Errorf(firerunner.Internal, "something was left behind: %+v", left).WithHint("firerunner demo --log demo.log, then read demo.log")
	}
	return nil
}

// wrong lists what did not go as the pipeline says, one microVM for each job included.
func (d *demo) wrong(pipeline gitlabtest.Pipeline) (wrong []string) {
	if pipeline.Status != gitlabtest.StatusSuccess {
		wrong = append(wrong, fmt.Sprintf("the pipeline is %s", pipeline.Status))
	}
	takers := map[int64]string{}
	for _, j := range d.jobs() {
		want := gitlabtest.StatusSuccess
		if j.Name == "lint" {
			want = gitlabtest.StatusFailed
			if j.ExitCode == nil || *j.ExitCode != 3 {
				wrong = append(wrong, "lint did not fail with exit code 3")
			}
		}
		if j.Status != want {
			wrong = append(wrong, fmt.Sprintf("job %s is %s instead of %s", j.Name, j.Status, want))
		}
		if other, taken := takers[j.RunnerID]; taken && j.RunnerID != 0 {
			wrong = append(wrong, fmt.Sprintf("jobs %s and %s ran on one runner", other, j.Name))
		}
		takers[j.RunnerID] = j.Name
	}
	return wrong
}
