package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/internal/image"
)

func newImageVerifyCommand(a *app) *cobra.Command {
	var timeout time.Duration
	var logFile string
	command := &cobra.Command{
		Use:   "verify [NAME|DIGEST]",
		Short: "Boot an image once and run a test job in it",
		Long: `Reads every file of the image and compares it with its manifest; then boots one
microVM with QEMU on this machine, and has it run one job of an emulated GitLab.
It says what it has checked: that the image boots and its agent says hello, the
version of gitlab-runner, that the job clones its repository, is not root and ends
with the exit code that it should, and that nothing is left afterwards. The exit
status is 0 only if all of it is so.

Of an image without agent, only the files are checked: such a system starts by
itself and waits for a runner that is installed over SSH.`,
		Example: `  firerunner image verify
  firerunner image verify jammy --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeoutCause(command.Context(), timeout,
				firerunner.Errorf(firerunner.Unavailable, "it took longer than %s", timeout))
			defer cancel()
			return a.verifyImage(ctx, args, logFile)
		},
	}
	command.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "give up after this time")
	command.Flags().StringVar(&logFile, "log", "", "write the daemon's log to this `file`")
	return command
}

// imageCheck is one thing that was checked.
type imageCheck struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// imageVerdict is what --json shows.
type imageVerdict struct {
	Image  string       `json:"image"`
	Digest string       `json:"digest"`
	Agent  bool         `json:"agent"` // false: only its files were checked
	OK     bool         `json:"ok"`
	Checks []imageCheck `json:"checks"`
}

// verification is one image that is verified: the demo's GitLab and daemon, with one job of its own.
type verification struct {
	demo
	manifest image.Manifest
	marker   string // what only the repository of this run has in it
	verdict  imageVerdict
}

func (v *verification) check(name string, ok bool, format string, args ...any) {
	c := imageCheck{name, ok, fmt.Sprintf(format, args...)}
	v.verdict.Checks = append(v.verdict.Checks, c)
	word := "ok"
	if !ok {
		word = "WRONG"
	}
	v.say("%-6s %-14s %s\n", word, c.Name, c.Detail)
}

func (a *app) verifyImage(ctx context.Context, args []string, logFile string) error {
	cfg, err := a.demoConfig()
	if err != nil {
		return err
	}
	name := cfg.VM.Image
	if len(args) > 0 {
		name = args[0]
	}
	v := &verification{demo: demo{app: a, began: time.Now()}}
	images := &image.Store{Dir: cfg.Image.Dir}
	if v.manifest, err = images.Inspect(ctx, name); err != nil {
		return err
	}
	v.verdict = imageVerdict{Image: name, Digest: v.manifest.Digest, Agent: !v.manifest.Recipe.NoAgent}
	v.say("image %s is %s\n", name, shortDigest(v.manifest.Digest))
	if err := images.Verify(ctx, name); err != nil {
		v.check("files", false, "%s", err)
	} else {
		v.check("files", true, "every file is what was built")
	}
	switch {
	case v.manifest.Recipe.NoAgent:
		v.say("It has no agent, so it was not booted: run a job of a profile with \"provision: ssh\" on it.\n")
	case v.good():
		if err := v.runJob(ctx, cfg, logFile); err != nil {
			return err
		}
	}
	v.verdict.OK = v.good()
	if err := a.print(v.verdict, func(io.Writer) error { return nil }); err != nil {
		return err
	}
	if !v.verdict.OK {
		return firerunner.Errorf(firerunner.Internal, "image %s is not good: see what is WRONG", name).
			WithHint("firerunner image verify %s --log FILE writes down more", name)
	}
	return nil
}

func (v *verification) good() bool {
	for _, c := range v.verdict.Checks {
		if !c.OK {
			return false
		}
	}
	return true
}

// runJob boots one microVM for one job, and checks what became of both.
func (v *verification) runJob(ctx context.Context, cfg *config.Config, logFile string) (err error) {
	logger, closeLog, err := v.demoLogger(logFile)
	if err != nil {
		return err
	}
	defer closeLog()
	cfg.StateDir = filepath.Join(filepath.Dir(cfg.StateDir), "verify")
	cfg.Database = "sqlite://" + filepath.Join(cfg.StateDir, "firerunner.db")
	cfg.Driver, cfg.Hosts = "qemu", nil
	cfg.VM.Image, cfg.VM.KernelImage, cfg.VM.InitrdImage, cfg.VM.RootFSImage = v.manifest.Digest, "", "", ""
	v.dir = cfg.StateDir
	release, err := v.clear(ctx, cfg, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(v.dir)) }()
	defer release()
	if err := v.startGitLab(cfg, logger); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.gitlab.Close()) }()
	if v.daemon, err = openDaemon(ctx, daemonConfig{Config: cfg, Logger: logger, Environ: v.Environ}); err != nil {
		return err
	}
	defer v.daemon.close()
	if err := v.daemon.start(ctx); err != nil {
		return err
	}
	ended := false
	end := func() error { // Ctrl-C at any moment, and every error, ends here
		if ended {
			return nil
		}
		ended = true
		over, cancel := context.WithCancel(context.Background())
		cancel()
		return v.daemon.end(over, 0, v.Stderr)
	}
	defer func() { err = errors.Join(err, end()) }()
	job, err := v.pushJob()
	if err != nil {
		return err
	}
	if err := v.follow(ctx, job); err != nil {
		return err
	}
	v.settle(ctx)
	left, err := v.left(ctx)
	if err != nil {
		return err
	}
	v.checkJob(ctx, job)
	v.check("nothing left", left.none(), "%d microVMs, %d runners in GitLab, %d disks", left.VMs, left.Runners, left.Overlays)
	return nil
}

// verifyExit is the exit code of the job: one that nothing else has.
const verifyExit = 42

// pushJob makes the project with its one job.
func (v *verification) pushJob() (int64, error) {
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return 0, err
	}
	v.marker = hex.EncodeToString(random[:])
	project, err := v.gitlab.CreateProject("verify/image", map[string]string{"README.md": "# One job\n"})
	if err != nil {
		return 0, err
	}
	if _, err := v.gitlab.AddHook(project.ID, gitlabtest.Hook{
		URL: v.daemon.webhookURL(), SigningToken: v.daemon.cfg.GitLab.SigningToken.Reveal(), JobEvents: true,
	}); err != nil {
		return 0, err
	}
	pipeline, err := v.gitlab.Push(project.ID, map[string]string{
		"marker": v.marker + "\n",
		".gitlab-ci.yml": fmt.Sprintf(`verify:
  tags: [firecracker-1cpu-1gb]
  variables: {GIT_DEPTH: 1}
  script:
    - echo "the repository says $(cat marker)"
    - echo "the job is user $(id -u)"
    - exit %d
`, verifyExit),
	})
	if err != nil {
		return 0, err
	}
	if pipeline == nil || len(pipeline.JobIDs) != 1 {
		return 0, firerunner.Errorf(firerunner.Internal, "the push made no job")
	}
	v.pipeline = pipeline.ID
	return pipeline.JobIDs[0], nil
}

// follow shows each state of the microVM until the job has ended, or cannot begin.
func (v *verification) follow(ctx context.Context, job int64) error {
	tick := time.NewTicker(refresh)
	defer tick.Stop()
	shown := ""
	for {
		runners, err := v.daemon.store.Runners(ctx, firerunner.RunnerQuery{})
		if err == nil && len(runners) > 0 {
			r := runners[len(runners)-1]
			if state := r.State.String(); state != shown {
				shown = state
				fmt.Fprintf(v.Stderr, "%7.1f s  microVM %s: %s\n", time.Since(v.began).Seconds(), r.ID, state)
			}
			if r.Outcome == firerunner.Rejected {
				v.check("boots", false, "%s", r.Message)
				return nil
			}
		}
		if j, found := v.gitlab.Job(job); found && j.Status.Finished() {
			return nil
		}
		select {
		case <-ctx.Done():
			return firerunner.Errorf(firerunner.Unavailable, "the image was not verified: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// checkJob compares what the job and its microVM did with what they should do.
func (v *verification) checkJob(ctx context.Context, id int64) {
	if !v.good() {
		return // it never began
	}
	j, _ := v.gitlab.Job(id)
	took := map[firerunner.State]time.Duration{}
	if job, err := v.daemon.store.Job(ctx, id); err == nil {
		events, _ := v.daemon.store.Events(ctx, firerunner.EventQuery{RunnerID: job.RunnerID, Kinds: []firerunner.EventKind{firerunner.EventMoved}})
		for _, e := range events {
			took[e.From] = e.Took
		}
	}
	ready, booted := took[firerunner.Booting]
	v.check("boots", booted, "the kernel found its disk, and the agent started")
	v.check("hello", booted, "the agent %s said hello after %.1f s", v.manifest.AgentVersion, ready.Seconds())
	said := func(before string) string { // what a line of the log says after these words
		for _, line := range tail(v.gitlab.Trace(id), 1<<20) {
			if after, found := strings.CutPrefix(line, before); found {
				word, _, _ := strings.Cut(after, " ")
				return word
			}
		}
		return ""
	}
	version, user := said("Running with gitlab-runner "), said("the job is user ")
	v.check("gitlab-runner", version == v.manifest.RunnerVersion, "it is %s, and the manifest says %s", orNone(version), v.manifest.RunnerVersion)
	v.check("clone", said("the repository says ") == v.marker, "the job has read a file of its repository")
	v.check("user", user != "" && user != "0", "the job is user %s", orNone(user))
	code := "none"
	if j.ExitCode != nil {
		code = fmt.Sprint(*j.ExitCode)
	}
	v.check("exit code", j.Status == gitlabtest.StatusFailed && j.ExitCode != nil && *j.ExitCode == verifyExit,
		"the job ended with %s, as %d was asked for", code, verifyExit)
	if !v.good() {
		for _, line := range tail(v.gitlab.Trace(id), 20) {
			v.say("  | %s\n", line)
		}
	}
}

func orNone(text string) string {
	if text == "" {
		return "unknown"
	}
	return text
}
