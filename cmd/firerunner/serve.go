package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/telemetry"
)

// endPatience is how long, after the grace for running jobs, the daemon waits for its last microVMs to be gone.
const endPatience = 30 * time.Second

func newServeCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon",
		Long: `Takes GitLab's webhooks at /webhook, sweeps for pending jobs that no webhook
announced, and gives each job that asks for a size (or by a profile's tag) a
microVM of its own.

SIGTERM or Ctrl-C ends it gently: it takes no new job, lets running jobs finish
for shutdown_grace, then stops them so that GitLab hears of it. A second signal
cuts the grace short. Nothing that runs is lost by kill -9: the microVMs live on
and the next start takes them up.

SIGHUP reads the configuration again, and so does a change of its file or a
secret's (watch_config). All of it comes into force at once, but for what a running
daemon cannot change (where it listens, its database, its driver): that is named in
a warning. Hosts that went are drained. A wrong file changes nothing.

/healthz says that the process is alive, /readyz that store, queue and GitLab
answer and, beside other controllers, that its lease is held; /metrics is on its own port (server.metrics_port).`,
		Example: `  firerunner serve --config /etc/firerunner/config.yaml
  FIRERUNNER_GITLAB_TOKEN=... firerunner serve --set gitlab.url=https://gitlab.example.com`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return a.serve(command.Context()) },
	}
}

func (a *app) serve(ctx context.Context) error {
	cfg, err := a.load(false)
	if err != nil {
		return err
	}
	level, changes, err := logLevel(cfg, a.verbose)
	if err != nil {
		return err
	}
	logger, err := telemetry.NewLoggerAt(a.Stderr, cfg.Log.Format, level)
	if err != nil {
		return err
	}
	defer thrift(a.Environ)()
	d, err := openDaemon(ctx, daemonConfig{Config: cfg, Logger: logger, Level: changes, Environ: a.Environ})
	if err != nil {
		return err
	}
	defer d.close()
	if err := d.start(ctx); err != nil {
		return err
	}
	if err := d.missingImages(ctx); err != nil { // it may be built while we serve
		logger.Error("jobs will wait: an image cannot be booted", "error", err, "remedy", firerunner.HintOf(err))
	}
	if err := missingRunners(cfg.ProfileList()); err != nil {
		logger.Error("jobs of a profile will fail: gitlab-runner cannot be installed", "error", err, "remedy", firerunner.HintOf(err))
	}
	d.sayDraining(ctx)
	logger.Info("serving", "webhook", d.webhookURL(), "metrics", d.metricsURL(), "version", buildVersion())
	reading, stopReading := context.WithCancel(ctx)
	var reloading sync.WaitGroup
	reloading.Go(func() { d.followConfig(reading, a.file(), func() (*config.Config, error) { return a.load(false) }) })
	defer reloading.Wait()
	defer stopReading()
	select {
	case <-ctx.Done():
	case err := <-d.failed:
		return err
	}
	hurry, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	grace := d.inForce.Load().ShutdownGrace
	logger.Info("ending: no new jobs; running ones may finish", "grace", grace)
	return d.end(hurry, grace, a.Stderr)
}

// end finishes the work and says what is left, if anything is.
func (d *daemon) end(hurry context.Context, grace time.Duration, stderr io.Writer) error {
	if d.handOver() {
		d.log.Info("the other controllers go on with what runs")
		return nil
	}
	left := d.control.Shutdown(context.Background(), hurry, grace, endPatience)
	if left == 0 {
		return nil
	}
	fmt.Fprintf(stderr, "firerunner: %d runners could not be ended in time; the next start takes them up\n", left)
	return firerunner.Errorf(firerunner.Unavailable, "%d runners are still live", left).
		WithHint("start firerunner again: it goes on where this one stopped")
}
