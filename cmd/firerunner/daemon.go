package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/control"
	"github.com/firerunner/firerunner/internal/driver/fake"
	"github.com/firerunner/firerunner/internal/driver/flintlock"
	"github.com/firerunner/firerunner/internal/gitlab"
	"github.com/firerunner/firerunner/internal/guest"
	"github.com/firerunner/firerunner/internal/image"
	"github.com/firerunner/firerunner/internal/intake"
	"github.com/firerunner/firerunner/internal/peers"
	"github.com/firerunner/firerunner/internal/queue"
	"github.com/firerunner/firerunner/internal/telemetry"
)

// spareSteps is how many steps may run besides one for each microVM, mostSteps the most of those: a large fleet does
// not have all its microVMs made in one moment.
const (
	spareSteps = 8
	mostSteps  = 64
)

// daemonConfig is what a daemon is made of.
type daemonConfig struct {
	*config.Config
	Logger  *slog.Logger
	Environ []string
	Level   *slog.LevelVar // of Logger, which log.level changes; nil: it stays
	Fake    fake.Config    // of driver fake: how its guests behave
}

// daemon is every part of FireRunner, wired together: the only place where the rooms meet.
type daemon struct {
	cfg     daemonConfig
	log     *slog.Logger
	store   *openedStore
	queue   *queue.Queue
	gitlab  *gitlab.Client
	driver  firerunner.Driver
	fleet   *flintlock.Driver // the same, where hosts run flintlockd
	images  *image.Store
	control *control.Control
	metrics *telemetry.Metrics

	installation string
	keeper       *peers.Keeper // nil: nobody else may serve this database
	standing     standIns
	desks        desks

	// What may change while it runs: see reload.
	inForce  atomic.Pointer[config.Config]
	intake   inForceIntake
	projects []int64                                   // swept from the start
	reached  atomic.Pointer[map[string]flintlock.Host] // every host that was configured since the start, by name
	reloads  *telemetry.Reloads

	guests        *guest.Endpoint // nil: the driver has a channel of its own into its guests
	guestListener net.Listener
	fingerprint   string // of the guest endpoint's certificate

	webhooks, metricsServer *server
	failed                  chan error // a listener that broke, or the database was lost to another
	closers                 []func()   // in order of opening
}

// openDaemon opens and wires everything but starts nothing. On an error it has closed again what it opened.
func openDaemon(ctx context.Context, cfg daemonConfig) (_ *daemon, err error) {
	d := &daemon{cfg: cfg, log: cfg.Logger, failed: make(chan error, 4)}
	d.inForce.Store(cfg.Config)
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if err := os.MkdirAll(cfg.StateDir, 0o711); err != nil { // microVMs' users pass through it to their own folders
		return nil, firerunner.Errorf(firerunner.Invalid, "making the state folder: %w", err).WithHint("set state_dir to a folder that this user may write")
	}
	installation, err := installationID(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	d.standing.all = map[string]*standIn{}
	d.metrics = telemetry.New(telemetry.Config{
		Version: buildVersion(), Source: lateSource{d}, WebhookResults: resultWords(), Logger: d.log,
	})
	d.reloads = d.metrics.Reloads(time.Now())
	if err := d.openStore(ctx); err != nil {
		return nil, err
	}
	if d.installation, err = d.store.Installation(ctx, installation); err != nil {
		return nil, err
	}
	if err := d.openGitLab(); err != nil {
		return nil, err
	}
	if err := d.openPeers(ctx); err != nil {
		return nil, err
	}
	if err := d.openDriver(ctx); err != nil {
		return nil, err
	}
	if err := d.openControl(ctx); err != nil {
		return nil, err
	}
	return d, d.openServers()
}

// openStore opens the database, with the queue's tables in it. A file is this process's alone.
func (d *daemon) openStore(ctx context.Context) error {
	db := databaseOf(d.cfg.Config, d.log)
	db.committed = d.metrics.Record
	release, err := db.hold(ctx, true, d.failed)
	if err != nil {
		return err
	}
	d.onClose(release)
	if d.store, err = db.open(ctx); err != nil {
		return err
	}
	d.onClose(func() { d.logError("closing the store", d.store.Close()) })
	return nil
}

func (d *daemon) openGitLab() (err error) {
	d.gitlab, err = gitlab.New(gitlab.Config{
		URL: d.cfg.GitLab.URL, Token: d.gitlabToken, CAFile: d.cfg.GitLab.CAFile, Version: buildVersion(),
		Timeout: d.cfg.GitLab.RequestTimeout, Observe: d.metrics.GitLabRequest, Logger: d.log,
	})
	if err == nil {
		d.onClose(func() { d.logError("closing GitLab connections", d.gitlab.Close()) })
	}
	return err
}

func (d *daemon) openControl(ctx context.Context) error {
	var err error
	if d.projects, err = d.sweptProjects(ctx, d.cfg.Config); err != nil {
		return err
	}
	if d.control, err = d.newControl(d.driver, d.controllerName()); err != nil {
		return err
	}
	d.metrics.Sweep(func() telemetry.SweepState {
		s := d.control.SweepState()
		return telemetry.SweepState{Active: s.Active, Idle: s.Idle, PerMinute: s.PerMinute, Requests: s.Requests, Trouble: s.Trouble}
	})
	d.queue, err = d.store.queue(queue.Config{
		Steps: d.steps(), Concurrency: min(d.cfg.TotalSlots(), mostSteps) + spareSteps, Sole: d.keeper == nil,
		Controller: d.controllerName(), Logger: d.log,
	})
	return err
}

// newControl makes what moves the runners of a controller: ourselves, or one for which we stand in.
func (d *daemon) newControl(driver firerunner.Driver, controller string) (*control.Control, error) {
	ca, err := readCA(d.cfg.GitLab.CAFile)
	if err != nil {
		return nil, err
	}
	guestURL, routes, err := guestRoutes(d.cfg.GitLab.URL, d.cfg.GitLab.GuestURL)
	if err != nil {
		return nil, err
	}
	set := d.settings(d.inForce.Load())
	return control.New(control.Config{
		Store: d.store, GitLab: d.gitlab, Driver: driver, Image: d.image, Installation: d.installation, LocalHost: localHost(d.cfg.Config),
		Controller: controller, StandsIn: controller != d.controllerName(), Peers: d.peersOf(controller),
		Now: d.now, HostNow: d.hostNow(), Profiles: set.Profiles, Deadlines: set.Deadlines,
		GuestURL: guestURL, CA: ca, Routes: routes, OutputKiB: set.OutputKiB, SealKeys: firerunner.NewSealKeys(d.gitlabToken),
		QueueSize: set.QueueSize, SweepInterval: set.SweepInterval, SweepProjects: set.SweepProjects, SweepWindow: set.SweepWindow,
		SweepPerMinute: d.cfg.Sweep.RequestsPerMinute, ActiveWindow: d.cfg.Sweep.ActiveWindow,
		IdleInterval: d.cfg.Sweep.IdleInterval, Discover: d.cfg.Sweep.Discover, DiscoverInterval: d.cfg.Sweep.DiscoverInterval,
		WebhookTrouble: webhookTrouble(d.cfg.Config), WebhookInterval: d.cfg.Sweep.WebhookInterval, CallTimeout: d.cfg.GitLab.RequestTimeout, Logger: d.log,
		GiveUpAfter: d.cfg.Scheduler.GiveUpAfter, GiveUpFor: d.cfg.Scheduler.GiveUpFor,
		Fit: d.fit(), HoldAfter: set.HoldAfter, HostProbeInterval: d.cfg.Flintlock.ProbeInterval,
		HostProbeTimeout: d.cfg.Flintlock.ProbeTimeout, HostLostAfter: set.HostLostAfter,
	})
}

// start writes the hosts down, lets steps run, takes up what an earlier process left, and opens the doors.
func (d *daemon) start(ctx context.Context) error {
	if err := d.control.SyncHosts(ctx, d.cfg.HostList()); err != nil {
		return err
	}
	if err := d.queue.Start(ctx); err != nil {
		return err
	}
	d.onClose(func() {
		stop, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		d.logError("stopping the queue", d.queue.Stop(stop))
	})
	if err := d.control.Start(ctx); err != nil {
		return err
	}
	d.onClose(d.control.Close)
	d.serveGuests()
	if d.keeper != nil {
		d.keeper.Serve()
		d.onClose(func() {
			ctx, cancel := context.WithTimeout(context.Background(), letGoPatience)
			defer cancel()
			d.logError("ending to stand in for others", d.keeper.Rest(ctx))
		})
	}
	for _, s := range []*server{d.webhooks, d.metricsServer} {
		s.start(d.failed)
	}
	return nil
}

func (d *daemon) onClose(f func()) { d.closers = append(d.closers, f) }

// close undoes openDaemon and start, the last first. It touches no microVM.
func (d *daemon) close() {
	for i := len(d.closers) - 1; i >= 0; i-- {
		d.closers[i]()
	}
	d.closers = nil
}

func (d *daemon) logError(doing string, err error) {
	if err != nil {
		d.log.Warn("could not end cleanly", "doing", doing, "error", err)
	}
}

// sweptProjects resolves the projects that are swept from the start.
func (d *daemon) sweptProjects(ctx context.Context, cfg *config.Config) ([]int64, error) {
	var ids []int64
	for _, p := range cfg.GitLab.Projects {
		id, err := strconv.ParseInt(p, 10, 64)
		if err != nil {
			if id, err = d.gitlab.ProjectID(ctx, p); err != nil {
				return nil, err
			}
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// lateSource lets metrics be made before the store that they read.
type lateSource struct{ d *daemon }

func (l lateSource) Runners(ctx context.Context, q firerunner.RunnerQuery) ([]firerunner.Runner, error) {
	if l.d.store == nil {
		return nil, firerunner.Errorf(firerunner.Unavailable, "the store is not open yet")
	}
	return l.d.store.Runners(ctx, q)
}

func resultWords() []string {
	var words []string
	for _, r := range intake.Results() {
		words = append(words, string(r))
	}
	return words
}

// server is one listener with its routes.
type server struct {
	http     *http.Server
	listener net.Listener
	serving  sync.WaitGroup
}

// start serves until the server is closed.
func (s *server) start(failed chan<- error) {
	s.serving.Go(func() {
		if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			failed <- firerunner.Errorf(firerunner.Unavailable, "listening on %s: %w", s.listener.Addr(), err)
		}
	})
}
