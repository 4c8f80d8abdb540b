// Package control moves runners through their lives. Everything that changes a runner's row is here: demand counts
// what jobs want, place reserves capacity, provision makes credential and microVM, watch listens to the guest, stop
// removes everything; sweep, expire and reap repair what was lost on the way.
//
// Crash-only: each step reads the store, does one thing that may be done twice, and writes what is true now in one
// transaction together with the step that becomes due. Whatever is killed between two writes is done again.
package control

import (
	"context"
	"errors"
	"log/slog"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"github.com/firerunner/firerunner"
)

// Config is everything that control works with. Store, GitLab, Driver, Image and Installation are required.
type Config struct {
	Store  firerunner.Store
	GitLab firerunner.GitLab
	Driver firerunner.Driver
	// Image returns the image of that name as it is now.
	Image func(ctx context.Context, name string) (firerunner.Image, error)
	// Installation marks what is ours in GitLab and on hosts. It never changes for one store.
	Installation string
	// LocalHost is the one host whose microVMs the driver has; empty: it has those of all hosts.
	LocalHost string
	Profiles  []firerunner.Profile
	Deadlines firerunner.Deadlines

	// Controller is our name: the runners that bear it are ours to move. Empty: that of a site's only controller.
	Controller string
	// Peers are the site's other controllers; the zero value: there are none.
	Peers Peers
	// StandsIn says that this Control only brings the runners of a controller home that is away. It takes no new work.
	StandsIn bool

	GuestURL  string                    // GitLab as guests reach it
	CA        string                    // PEM for guests; empty = their own roots
	Routes    []firerunner.NetworkRoute // the way of guests to GitLab
	OutputKiB int                       // most that a job's log may hold; 0 = gitlab-runner's default

	SealKeys *firerunner.SealKeys // for the tokens of jobs, if GitLab is a JobFailer; nil: GitLab is told of no job that failed

	// Fit makes a size one that the driver can make: the next one up, and says why where it is another. A zero size: there
	// is none, why says it. nil: every size can be made.
	Fit func(firerunner.Size) (fitted firerunner.Size, why string)

	HoldAfter         time.Duration // so long a runner waits before a host is kept free for it; see placement
	HostProbeInterval time.Duration // how often hosts are asked for a sign of life, if the driver is a HostProber
	HostProbeTimeout  time.Duration // for one sign of life
	HostLostAfter     time.Duration // a host that is silent for so long is lost, with its microVMs

	GiveUpAfter int           // failures in a row, before a job started, after which an image is given up on a host
	GiveUpFor   time.Duration // for so long; then one runner tries it again

	// What follows, with Profiles, Deadlines, OutputKiB, HoldAfter and HostLostAfter, may change later: see Settings.
	QueueSize     int           // most runners that may wait for a host
	SweepInterval time.Duration // how often pending jobs of active projects are asked for
	SweepProjects []int64       // swept from the start, even before a hook; they count as active
	SweepWindow   time.Duration // projects without a sign of life for this long are not swept, unless they are discovered
	// SweepPerMinute is how many requests a minute to GitLab may be made that are not for a job or runner that somebody waits
	// for. GitLab's own limits make it less: see pace.
	SweepPerMinute   int
	ActiveWindow     time.Duration // a project with a sign of life within it is active
	IdleInterval     time.Duration // how often the others are asked at most
	Discover         bool          // sweep all projects of which the token's user is a maintainer, if GitLab is a ProjectLister
	DiscoverInterval time.Duration // how often they are listed
	// WebhookTrouble says why none of a project's webhooks does its work; the zero value: one does. nil: they are not looked at.
	WebhookTrouble  func(all []firerunner.Webhook) WebhookTrouble
	WebhookInterval time.Duration // how often the webhooks of active projects are looked at, if GitLab is a WebhookLister
	ReapInterval    time.Duration // how often drivers and GitLab are searched for what nobody owns
	StopGrace       time.Duration // how long a job that is ended early may take to say so to GitLab
	CallTimeout     time.Duration // for one call to GitLab

	Now     func() time.Time
	HostNow func() time.Time     // by the clock of the hosts, for what ends there by itself; nil = Now
	Elapsed func() time.Duration // since some moment, by a clock that never jumps
	NewID   func() string
	Logger  *slog.Logger
}

// Control is the loops and steps. New makes it, Start starts the loops, Close ends them.
type Control struct {
	Config
	stale   // see set
	inForce atomic.Pointer[Settings]
	changed broadcast // another one is in force

	locks      keyedLock
	changes    broadcast
	follow     followers
	rejections rejections
	trials     trials
	holdups    holdups
	fleet      fleet
	sweeper    *sweeper
	webhooks   webhooks
	prober     firerunner.HostProber    // nil: hosts are never asked
	lister     firerunner.ProjectLister // nil: projects cannot be discovered
	watcher    firerunner.WebhookLister // nil: webhooks cannot be looked at
	time       timekeeper
	failer     firerunner.JobFailer // nil: GitLab is told of no job that failed

	closing  chan struct{} // closed when no new work may be taken
	closeOne sync.Once
	cancel   context.CancelCauseFunc
	loops    sync.WaitGroup
}

// New checks the configuration and fills in defaults. It starts nothing.
func New(c Config) (*Control, error) {
	for name, missing := range map[string]bool{
		"Store": c.Store == nil, "GitLab": c.GitLab == nil, "Driver": c.Driver == nil,
		"Image": c.Image == nil, "Installation": c.Installation == "", "GuestURL": c.GuestURL == "",
	} {
		if missing {
			return nil, firerunner.Errorf(firerunner.Invalid, "control needs %s", name)
		}
	}
	for _, d := range []struct {
		value *time.Duration
		sane  time.Duration
	}{
		{&c.ActiveWindow, time.Hour},
		{&c.GiveUpFor, 15 * time.Minute},
		{&c.IdleInterval, 10 * time.Minute},
		{&c.DiscoverInterval, 10 * time.Minute},
		{&c.WebhookInterval, 10 * time.Minute},
		{&c.ReapInterval, time.Minute},
		{&c.StopGrace, 10 * time.Second},
		{&c.CallTimeout, 30 * time.Second},
		{&c.HostProbeInterval, 10 * time.Second},
		{&c.HostProbeTimeout, 5 * time.Second},
	} {
		if *d.value <= 0 {
			*d.value = d.sane
		}
	}
	if c.GiveUpAfter <= 0 {
		c.GiveUpAfter = 6
	}
	if c.SweepPerMinute <= 0 {
		c.SweepPerMinute = 300
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.HostNow == nil {
		c.HostNow = c.Now
	}
	if c.Elapsed == nil {
		began := time.Now()
		c.Elapsed = func() time.Duration { return time.Since(began) }
	}
	if c.NewID == nil {
		c.NewID = func() string { return newID(time.Now()) }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	made := &Control{Config: c, fleet: fleet{began: c.Now()}, closing: make(chan struct{})}
	made.prober, _ = c.Driver.(firerunner.HostProber)
	made.lister, _ = c.GitLab.(firerunner.ProjectLister)
	made.watcher, _ = c.GitLab.(firerunner.WebhookLister)
	made.failer, _ = c.GitLab.(firerunner.JobFailer)
	made.sweeper = newSweeper(c)
	settings := c.settings()
	made.inForce.Store(&settings)
	return made, nil
}

// Start takes up what the store knows (see adopt) and starts the loops. The queue must be able to take steps.
func (c *Control) Start(ctx context.Context) error {
	ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	c.follow.start(ctx, c.watch)
	if err := c.adopt(ctx); err != nil {
		c.Close()
		return err
	}
	c.loop(ctx, "expire", time.Second, c.expireInTime)
	c.loop(ctx, "reap", c.ReapInterval, c.reap)
	if c.StandsIn {
		return nil
	}
	c.loopAt(ctx, "sweep", func() time.Duration { return c.set().SweepInterval }, c.leading(c.sweep))
	c.loop(ctx, "hosts", noticeInterval, func(ctx context.Context) error {
		c.fleet.begin(c.leads(), c.Now())
		return c.leading(c.noticeHosts)(ctx)
	})
	if c.watcher != nil && c.WebhookTrouble != nil {
		c.loop(ctx, "webhooks", c.WebhookInterval, c.leading(c.lookAtWebhooks))
	}
	if c.prober != nil {
		c.loop(ctx, "probe", c.HostProbeInterval, c.probeHosts)
	}
	return nil
}

// Close ends loops and followers and waits for them. It touches no runner: microVMs live on and are taken up by the
// next Start. See Shutdown for the end that finishes them.
func (c *Control) Close() {
	c.stopTaking()
	if c.cancel != nil {
		c.cancel(errors.New("control is closing"))
	}
	c.loops.Wait()
	c.follow.wait()
}

// loop calls runOnce at once and then every interval until the context ends. The label tells profiles, and who simulates
// control, which task it is. An error is logged here, once.
func (c *Control) loop(ctx context.Context, name string, interval time.Duration, runOnce func(context.Context) error) {
	c.loopAt(ctx, name, func() time.Duration { return interval }, runOnce)
}

// loopAt is loop with an interval that may change: then it begins anew.
func (c *Control) loopAt(ctx context.Context, name string, interval func() time.Duration, runOnce func(context.Context) error) {
	repeat := func(ctx context.Context) {
		changed := c.changed.next()
		every := interval()
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			if err := runOnce(ctx); err != nil && ctx.Err() == nil {
				c.Logger.Warn("a periodic task failed; it runs again", "task", name, "in", every, "error", err)
			}
			for waiting := true; waiting; {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					waiting = false
				case <-changed:
					changed = c.changed.next()
					if now := interval(); now != every {
						every = now
						tick.Reset(every)
					}
				}
			}
		}
	}
	c.loops.Go(func() { pprof.Do(ctx, pprof.Labels("task", name), repeat) })
}

func (c *Control) stopTaking() { c.closeOne.Do(func() { close(c.closing) }) }

func (c *Control) takesWork() bool {
	select {
	case <-c.closing:
		return false
	default:
		return true
	}
}

func (c *Control) profile(name string) (firerunner.Profile, bool) {
	for _, p := range c.set().Profiles {
		if p.Name == name {
			return p, true
		}
	}
	return firerunner.Profile{}, false
}
