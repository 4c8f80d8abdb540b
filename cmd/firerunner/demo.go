package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/internal/store/sqlite"
	"github.com/firerunner/firerunner/internal/telemetry"
)

func newDemoCommand(a *app) *cobra.Command {
	var timeout time.Duration
	var logFile string
	var hosts int
	command := &cobra.Command{
		Use:   "demo",
		Short: "Run a pipeline in real microVMs, with an emulated GitLab",
		Long: `Starts an emulated GitLab and FireRunner on this machine's loopback, pushes a
repository whose pipeline has six jobs, and shows them run: each in a microVM of
its own, by the real gitlab-runner. Afterwards nothing is left. The exit status is
0 only if the pipeline passed and nothing was left behind.

It needs the image "default" (firerunner image build); make demo does all of it.`,
		Example: `  firerunner demo
  firerunner demo --hosts 3
  firerunner demo --log demo.log`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeoutCause(command.Context(), timeout,
				firerunner.Errorf(firerunner.Unavailable, "the demo took longer than %s", timeout))
			defer cancel()
			return a.demo(ctx, logFile, hosts)
		},
	}
	command.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "give up after this time")
	command.Flags().StringVar(&logFile, "log", "", "write the daemon's log to this `file`")
	command.Flags().IntVar(&hosts, "hosts", 0, "run it on this many hosts with a fake flintlockd, whose microVMs are real; 0: on this machine")
	return command
}

// demo is one run of the demo: an emulated GitLab, a daemon, one pipeline.
type demo struct {
	*app
	dir      string
	gitlab   *gitlabtest.Server
	daemon   *daemon
	fleet    *demoFleet // nil: microVMs are made on this machine
	pipeline int64
	began    time.Time
}

func (a *app) demo(ctx context.Context, logFile string, hosts int) (err error) {
	if hosts < 0 || hosts > 16 {
		return firerunner.Errorf(firerunner.Invalid, "--hosts is 0 to 16")
	}
	logger, closeLog, err := a.demoLogger(logFile)
	if err != nil {
		return err
	}
	defer closeLog()
	cfg, err := a.demoConfig()
	if err != nil {
		return err
	}
	d := &demo{app: a, dir: cfg.StateDir, began: time.Now()}
	release, err := d.clear(ctx, cfg, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(d.dir)) }()
	defer release()

	if err := d.startGitLab(cfg, logger); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.gitlab.Close()) }()
	if hosts > 0 {
		defer func() { err = errors.Join(err, d.fleet.close()) }()
		if err := d.startFleet(ctx, cfg, hosts, logger); err != nil {
			return err
		}
	}
	if d.daemon, err = openDaemon(ctx, daemonConfig{Config: cfg, Logger: logger, Environ: a.Environ}); err != nil {
		return err
	}
	defer d.daemon.close()
	if err := d.daemon.missingImages(ctx); err != nil {
		return err
	}
	if err := d.daemon.start(ctx); err != nil {
		return err
	}
	defer func() { // Ctrl-C at any moment, and every error, ends here
		over, cancel := context.WithCancel(context.Background())
		cancel()
		err = errors.Join(err, d.daemon.end(over, 0, a.Stderr))
	}()
	if err := d.push(); err != nil {
		return err
	}
	if err := d.show(ctx); err != nil {
		return err
	}
	return d.verdict(ctx)
}

// demoConfig is the configuration of the demo: the machine's, with an emulated GitLab and a state folder of its own.
func (a *app) demoConfig() (*config.Config, error) {
	cfg, err := a.load(true)
	if err != nil {
		return nil, err
	}
	images := cfg.Image.Dir
	cfg.StateDir = filepath.Join(cfg.StateDir, "demo")
	cfg.Image.Dir = images
	cfg.Database = "sqlite://" + filepath.Join(cfg.StateDir, "firerunner.db")
	cfg.Server.Host, cfg.Server.Port = "127.0.0.1", 0
	cfg.Server.MetricsHost, cfg.Server.MetricsPort = "127.0.0.1", 0
	cfg.Scheduler.Slots = max(cfg.Scheduler.Slots, 2)
	cfg.Scheduler.VCPUs = max(cfg.Scheduler.VCPUs, 2)
	cfg.Profiles = nil
	cfg.VM.MinVCPU, cfg.VM.MinMemoryMiB = 1, 512
	cfg.VM.MaxVCPU, cfg.VM.MaxMemoryMiB = 2, 2048
	cfg.VM.DefaultVCPU, cfg.VM.DefaultMemoryMiB = 1, 1024
	cfg.VM.PublicNetwork = false
	return cfg, nil
}

func (a *app) demoLogger(file string) (*slog.Logger, func(), error) {
	switch {
	case file != "":
		f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, nil, firerunner.Errorf(firerunner.Invalid, "opening the log file: %w", err)
		}
		l, err := telemetry.NewLogger(f, "text", "debug")
		return l, func() { _ = f.Close() }, err
	case a.verbose:
		l, err := telemetry.NewLogger(a.Stderr, "text", "debug")
		return l, func() {}, err
	}
	l, err := telemetry.NewLogger(a.Stderr, "text", "error")
	return l, func() {}, err
}

// clear removes what a demo that was killed left, its microVMs included, and holds the folder for this run.
func (d *demo) clear(ctx context.Context, cfg *config.Config, logger *slog.Logger) (release func(), err error) {
	if err := os.MkdirAll(d.dir, 0o711); err != nil {
		return nil, firerunner.Errorf(firerunner.Invalid, "making the demo's folder: %w", err).
			WithHint("run as root, or set state_dir (FIRERUNNER_STATE_DIR) to a folder that this user may write")
	}
	release, err = sqlite.Hold(filepath.Join(d.dir, "demo"))
	if err != nil {
		return nil, err
	}
	old := &daemon{cfg: daemonConfig{Config: cfg, Logger: logger, Environ: d.Environ}, log: logger}
	old.inForce.Store(cfg)
	defer old.close()
	installation, err := installationID(d.dir)
	if err == nil {
		old.installation = installation
		err = old.openDriver(ctx)
	}
	if err != nil {
		release()
		return nil, err
	}
	vms, err := old.driver.List(ctx)
	for _, vm := range vms {
		err = errors.Join(err, old.driver.Destroy(ctx, vm.ID))
	}
	for _, name := range []string{"firerunner.db", "firerunner.db-wal", "firerunner.db-shm", "gitlab", "fleet"} {
		err = errors.Join(err, os.RemoveAll(filepath.Join(d.dir, name)))
	}
	if err != nil {
		release()
		return nil, firerunner.Errorf(firerunner.Unavailable, "removing what an earlier demo left: %w", err)
	}
	return release, nil
}

// startGitLab starts the emulator, with a project and a token that may do just what FireRunner needs, and points the
// configuration at it.
func (d *demo) startGitLab(cfg *config.Config, logger *slog.Logger) (err error) {
	d.gitlab, err = gitlabtest.Start(gitlabtest.Config{
		Dir: filepath.Join(d.dir, "gitlab"), ExternalURL: "http://" + localGitLab, Logger: logger.With("part", "gitlab"),
	})
	if err != nil {
		return err
	}
	cfg.GitLab.URL, cfg.GitLab.GuestURL = d.gitlab.URL(), d.gitlab.ExternalURL()
	cfg.GitLab.Token = firerunner.Secret(d.gitlab.CreateToken("create_runner", "manage_runner", "read_api"))
	cfg.GitLab.TokenFile, cfg.GitLab.CAFile = "", ""
	var key [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		return err
	}
	cfg.GitLab.SigningToken = firerunner.Secret("whsec_" + base64.StdEncoding.EncodeToString(key[:]))
	cfg.GitLab.WebhookSecret, cfg.GitLab.AllowUnauthenticated = "", false
	return nil
}

// push makes the project with its signed webhook and pushes the repository.
func (d *demo) push() error {
	project, err := d.gitlab.CreateProject("demo/hello", map[string]string{"README.md": "# Hello\n"})
	if err != nil {
		return err
	}
	if _, err := d.gitlab.AddHook(project.ID, gitlabtest.Hook{
		URL: d.daemon.webhookURL(), SigningToken: d.daemon.cfg.GitLab.SigningToken.Reveal(), JobEvents: true,
	}); err != nil {
		return err
	}
	pipeline, err := d.gitlab.Push(project.ID, demoFiles())
	if err != nil {
		return err
	}
	if pipeline == nil {
		return firerunner.Errorf(firerunner.Internal, "the push made no pipeline")
	}
	d.pipeline = pipeline.ID
	d.say("emulated GitLab   %s\n", d.gitlab.URL())
	d.say("FireRunner        %s (signed webhooks)\n", d.daemon.webhookURL())
	if d.fleet != nil {
		d.say("hosts             %d, each with a flintlockd of its own (gRPC, TLS 1.3, token)\n", len(d.fleet.hosts))
	}
	d.say("pushed            %s: pipeline %d with %d jobs\n\n", project.Path, pipeline.ID, len(pipeline.JobIDs))
	return nil
}

func (d *demo) say(format string, args ...any) { _, _ = fmt.Fprintf(d.out(), format, args...) }

// out is where people read: results go to standard output only as JSON if that was asked for.
func (d *demo) out() io.Writer {
	if d.json {
		return d.Stderr
	}
	return d.Stdout
}
