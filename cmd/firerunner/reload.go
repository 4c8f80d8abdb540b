package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/control"
	"github.com/firerunner/firerunner/internal/driver/flintlock"
	"github.com/firerunner/firerunner/internal/intake"
)

// reload reads the configuration again and puts in force what can be, all of it or nothing: whatever may fail comes first,
// and what was done by then is taken back. One that is wrong changes nothing. It is for one goroutine at a time.
func (d *daemon) reload(ctx context.Context, load func() (*config.Config, error)) error {
	fresh, err := load()
	if err != nil {
		return d.refuse(err)
	}
	old := d.inForce.Load()
	next := old.With(fresh)
	if err := next.Validate(); err != nil {
		return d.refuse(firerunner.Errorf(firerunner.Invalid,
			"the file is right, but not beside what a running daemon cannot change: %w", err).WithHint("restart firerunner serve: it cuts no job"))
	}
	now, _ := old.Changes(next)
	_, later := next.Changes(fresh)
	if err := d.putInForce(ctx, next, now); err != nil {
		if firerunner.CodeOf(err) == firerunner.Invalid {
			return d.refuse(err)
		}
		d.reloads.Failed()
		d.log.Error("the configuration is right and could not be put in force; the one before stays, and it is tried again",
			"error", err, "hint", firerunner.HintOf(err))
		return err
	}
	d.reloads.Applied(time.Now(), len(later))
	d.log.Info("the configuration was read again and is in force", "changed", strings.Join(now, " "), "hosts", len(next.HostList()))
	if len(later) > 0 {
		d.log.Warn("changed keys that come into force at the next start", "keys", strings.Join(later, " "), "remedy", "restart firerunner serve: it cuts no job")
	}
	return nil
}

// refuse says everything that is wrong, a line of the log each.
func (d *daemon) refuse(err error) error {
	d.reloads.Refused()
	problems := problemsOf(err)
	for _, p := range problems {
		d.log.Error("wrong in the configuration", "source", p.Source, "line", p.Line, "key", p.Key, "problem", p.Message, "hint", p.Hint)
	}
	message, _, _ := strings.Cut(err.Error(), ":\n") // they stand above, one by one
	d.log.Error("the configuration was refused; the one before stays in force", "problems", len(problems), "error", message, "hint", firerunner.HintOf(err))
	return err
}

// putInForce makes next the configuration in force. now is the keys in which it differs from the one before.
func (d *daemon) putInForce(ctx context.Context, next *config.Config, now []string) error {
	changed := func(prefixes ...string) bool {
		return slices.ContainsFunc(now, func(key string) bool {
			return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(key, p) })
		})
	}
	var doors *intake.Intake
	var err error
	if changed("intake.", "gitlab.webhook_", "gitlab.signing_", "gitlab.allow_") {
		if doors, err = d.newIntake(next); err != nil {
			return err
		}
	}
	projects := d.projects
	if changed("gitlab.projects") {
		if projects, err = d.sweptProjects(ctx, next); err != nil {
			return err
		}
	}
	if err := d.putHostsInForce(ctx, next); err != nil {
		return err
	}

	// From here on nothing fails.
	d.projects = projects
	d.inForce.Store(next)
	if doors != nil {
		d.intake.Store(doors)
	}
	if d.cfg.Level != nil && changed("log.level") {
		_ = d.cfg.Level.UnmarshalText([]byte(next.Log.Level)) // checked
	}
	err = d.control.ChangeSettings(ctx, d.settings(next))
	for _, in := range d.standing.each() {
		err = errors.Join(err, in.control.ChangeSettings(ctx, d.settings(next)))
	}
	if err != nil {
		d.log.Warn("what the configuration allows is looked at with the next sweep", "error", err)
	}
	return nil
}

// putHostsInForce tells the driver first: a host whose row is there may be given work. One that is not configured any more
// drains, and is spoken with until the next start: what runs there must be ended.
func (d *daemon) putHostsInForce(ctx context.Context, next *config.Config) error {
	if d.fleet == nil {
		return d.control.SyncHosts(ctx, next.HostList())
	}
	reached := maps.Clone(*d.reached.Load())
	for _, h := range fleet(next) {
		reached[h.Name] = h
	}
	if err := d.setHosts(slices.Collect(maps.Values(reached))); err != nil {
		return err
	}
	if err := d.control.SyncHosts(ctx, next.HostList()); err != nil {
		return errors.Join(err, d.setHosts(slices.Collect(maps.Values(*d.reached.Load()))))
	}
	d.reached.Store(&reached)
	return nil
}

// setHosts tells our driver, and those of the controllers for which we stand in.
func (d *daemon) setHosts(hosts []flintlock.Host) error {
	errs := []error{d.fleet.SetHosts(hosts)}
	for _, in := range d.standing.each() {
		errs = append(errs, in.driver.SetHosts(hosts))
	}
	return errors.Join(errs...)
}

// settings is what control works with of a configuration.
func (d *daemon) settings(cfg *config.Config) control.Settings {
	return control.Settings{
		Profiles: cfg.ProfileList(), Deadlines: cfg.Deadlines, OutputKiB: cfg.VM.JobLogKiB, HoldAfter: cfg.Scheduler.HoldAfter,
		HostLostAfter: cfg.Flintlock.LostAfter, QueueSize: cfg.Scheduler.QueueSize, SweepInterval: cfg.Sweep.Interval,
		SweepProjects: d.projects, SweepWindow: cfg.Sweep.ProjectWindow,
	}
}

// inForceIntake is the intake in force: a webhook that has begun ends with the one that it began with.
type inForceIntake struct{ atomic.Pointer[intake.Intake] }

func (i *inForceIntake) ServeHTTP(w http.ResponseWriter, r *http.Request) { i.Load().ServeHTTP(w, r) }

func reachedHosts(hosts []flintlock.Host) *map[string]flintlock.Host {
	all := map[string]flintlock.Host{}
	for _, h := range hosts {
		all[h.Name] = h
	}
	return &all
}

// logLevel is the level that may change while the daemon runs; nil where the command line has the last word.
func logLevel(cfg *config.Config, verbose bool) (level *slog.LevelVar, changes *slog.LevelVar, err error) {
	level = new(slog.LevelVar)
	if verbose {
		level.Set(slog.LevelDebug)
		return level, nil, nil
	}
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		return nil, nil, firerunner.Errorf(firerunner.Invalid, "log.level: %w", err)
	}
	return level, level, nil
}
