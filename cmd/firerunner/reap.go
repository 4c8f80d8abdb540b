package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/control"
	"github.com/firerunner/firerunner/internal/driver/fake"
	"github.com/firerunner/firerunner/internal/driver/flintlock"
	"github.com/firerunner/firerunner/internal/driver/qemu"
	"github.com/firerunner/firerunner/internal/gitlab"
)

func newReapCommand(a *app) *cobra.Command {
	var o control.ReapOptions
	command := &cobra.Command{
		Use:   "reap",
		Short: "Remove what belongs to no runner",
		Long: `Looks for what has lost its other half, and removes it: microVMs and what is left
of them (overlays, sockets, cgroups, processes) without a runner, runners whose
microVM is gone, and runners in GitLab that carry this installation's mark and
belong to no runner here. What does not carry the mark is never touched.

"firerunner serve" does the same at its start and every minute. This works beside
it and without it: the database is read again before anything is removed, and what
is younger than --grace is left alone.

Exit status 0: nothing was found, or all of it was removed. With --dry-run, 4:
something would be removed. Else the first failure's, such as 6: GitLab, or a host,
does not answer.`,
		Example: `  firerunner reap --dry-run
  firerunner reap --json`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return a.reap(command.Context(), o) },
	}
	command.Flags().BoolVar(&o.DryRun, "dry-run", false, "say what would be removed")
	command.Flags().DurationVar(&o.Grace, "grace", time.Minute, "leave alone what is younger")
	return command
}

// reaped is one thing that was found, as people and scripts see it.
type reaped struct {
	Kind       control.LeftoverKind `json:"kind"`
	ID         string               `json:"id"`
	Host       string               `json:"host,omitempty"`
	GitLabID   int64                `json:"gitlab_id,omitempty"`
	BornAt     *time.Time           `json:"born_at,omitempty"`
	AgeSeconds *int64               `json:"age_seconds,omitempty"`
	Why        string               `json:"why"`
	Action     string               `json:"action"` // removed, would be removed, failed
	Error      string               `json:"error,omitempty"`
	Remedy     string               `json:"remedy,omitempty"`
}

func (a *app) reap(ctx context.Context, o control.ReapOptions) error {
	cfg, err := a.load(false)
	if err != nil {
		return err
	}
	installation, err := readInstallation(installationFile(cfg.StateDir))
	if errors.Is(err, os.ErrNotExist) {
		return firerunner.Errorf(firerunner.NotFound, "there is no installation in %s: nothing there is known to be ours", cfg.StateDir).
			WithHint(`"firerunner serve" makes it; state_dir says where`)
	}
	if err != nil {
		return err
	}
	return a.withStore(ctx, func(ctx context.Context, store firerunner.Store) error {
		if registry, ok := store.(firerunner.Registry); ok { // other controllers of the site have the same mark
			switch mark, err := registry.Installation(ctx, ""); {
			case err == nil:
				installation = mark
			case firerunner.CodeOf(err) != firerunner.NotFound:
				return err
			}
		}
		return a.reapIn(ctx, cfg, installation, store, o)
	})
}

func (a *app) reapIn(ctx context.Context, cfg *config.Config, installation string, store firerunner.Store, o control.ReapOptions) error {
	reaper, done, err := newReaper(ctx, cfg, installation, store)
	if err != nil {
		return err
	}
	defer done()
	o.GitLabOnly = cfg.Driver == driverFake
	found, failed := reaper.ReapOnce(ctx, o)
	now := time.Now()
	result := struct {
		OK     bool     `json:"ok"`
		DryRun bool     `json:"dry_run"`
		Found  []reaped `json:"found"`
	}{failed == nil, o.DryRun, []reaped{}}
	for _, f := range found {
		result.Found = append(result.Found, reapedFrom(f, o.DryRun, now))
	}
	if err := a.print(result, func(w io.Writer) error { return printReaped(w, result.Found) }); err != nil {
		return err
	}
	switch {
	case failed != nil:
		return firerunner.Errorf(codeOfAny(failed), "not everything could be looked at, or removed: %w", failed).WithHint("%s", hintOfAny(failed))
	case o.DryRun && len(found) > 0:
		return silentError{firerunner.Errorf(firerunner.Conflict, "something would be removed")}
	}
	return nil
}

const driverFake = "fake"

// newReaper is a control that is never started: it looks once.
func newReaper(ctx context.Context, cfg *config.Config, installation string, store firerunner.Store) (_ *control.Control, done func(), err error) {
	var closers []func()
	done = func() {
		for _, c := range closers {
			c()
		}
	}
	defer func() {
		if err != nil {
			done()
		}
	}()
	token := gitlab.StaticToken(cfg.GitLab.Token)
	if cfg.GitLab.TokenFile != "" {
		token = gitlab.TokenFile(cfg.GitLab.TokenFile)
	}
	client, err := gitlab.New(gitlab.Config{
		URL: cfg.GitLab.URL, Token: token, CAFile: cfg.GitLab.CAFile, Version: buildVersion(), Timeout: cfg.GitLab.RequestTimeout,
	})
	if err != nil {
		return nil, done, err
	}
	closers = append(closers, func() { _ = client.Close() })
	driver, err := besideDriver(ctx, cfg, installation, store)
	if err != nil {
		return nil, done, err
	}
	closers = append(closers, func() { _ = driver.Close() })
	c, err := control.New(control.Config{
		Store: store, GitLab: client, Driver: driver, Installation: installation, Controller: controllerNameOf(cfg), LocalHost: localHost(cfg), GuestURL: cfg.GitLab.URL,
		Image: func(context.Context, string) (firerunner.Image, error) {
			return firerunner.Image{}, firerunner.Errorf(firerunner.Internal, "the reaper makes no microVM")
		},
		Profiles: cfg.ProfileList(), Deadlines: cfg.Deadlines, CallTimeout: cfg.GitLab.RequestTimeout,
	})
	return c, done, err
}

// closingDriver is a driver that this process opened.
type closingDriver interface {
	firerunner.Driver
	io.Closer
}

// besideDriver opens the configured driver so that it does nothing by itself: a daemon may be running.
func besideDriver(ctx context.Context, cfg *config.Config, installation string, store firerunner.Store) (closingDriver, error) {
	quiet := slog.New(slog.DiscardHandler)
	switch cfg.Driver {
	case driverFake:
		return fake.New(fake.Config{}), nil
	case config.DriverFlintlock:
		ledger, ok := store.(firerunner.Ledger)
		if !ok {
			return nil, firerunner.Errorf(firerunner.Internal, "the store has no ledger")
		}
		return flintlock.New(ctx, flintlock.Config{
			Name: cfg.Driver, Namespace: namespaceOf(installation, controllerNameOf(cfg)), Partition: partitionOf(cfg, controllerNameOf(cfg)),
			Hosts: fleet(cfg), Ledger: ledger, Beside: true,
			CallTimeout: cfg.Flintlock.ProbeTimeout, Logger: quiet,
		})
	}
	return qemu.New(qemu.Config{
		StateDir: cfg.StateDir, Host: cfg.Scheduler.HostName, Installation: installation, UIDBase: cfg.VM.UIDBase, Logger: quiet,
	})
}

// localHost is the one host whose microVMs the driver has; empty: it has those of all.
func localHost(cfg *config.Config) string {
	if cfg.Driver == config.DriverFlintlock {
		return ""
	}
	return cfg.Scheduler.HostName
}

func reapedFrom(f control.Leftover, dry bool, now time.Time) reaped {
	r := reaped{Kind: f.Kind, ID: f.ID, Host: f.Host, GitLabID: f.GitLabID, Why: f.Why, Action: "removed"}
	if !f.Born.IsZero() {
		age := int64(now.Sub(f.Born).Seconds())
		r.BornAt, r.AgeSeconds = &f.Born, &age
	}
	switch {
	case f.Err != nil:
		r.Action, r.Error, r.Remedy = "failed", f.Err.Error(), firerunner.HintOf(f.Err)
	case dry:
		r.Action = "would be removed"
	}
	return r
}

func printReaped(w io.Writer, all []reaped) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "nothing to remove: everything belongs to a runner")
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KIND\tID\tHOST\tAGE\tACTION\tWHY")
	for _, r := range all {
		id, age, why := r.ID, "unknown", r.Why
		if r.Kind == control.LeftGitLabRunner {
			id = fmt.Sprintf("%d (%s)", r.GitLabID, r.ID)
		}
		if r.AgeSeconds != nil {
			age = (time.Duration(*r.AgeSeconds) * time.Second).String()
		}
		if r.Error != "" {
			why += ": " + r.Error
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Kind, id, orDash(r.Host), age, r.Action, why)
	}
	return table.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// codeOfAny is the code of the first of several joined errors that has one.
func codeOfAny(err error) firerunner.Code {
	var known *firerunner.Error
	if errors.As(err, &known) {
		return known.Code
	}
	return firerunner.Internal
}

func hintOfAny(err error) string {
	var known *firerunner.Error
	if errors.As(err, &known) {
		return firerunner.HintOf(known)
	}
	return ""
}
