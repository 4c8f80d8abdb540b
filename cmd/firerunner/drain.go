package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
)

func newDrainCommand(a *app) *cobra.Command {
	var wait bool
	var timeout time.Duration
	command := &cobra.Command{
		Use:   "drain",
		Short: "Take no new work anywhere; what runs goes on",
		Long: `Gives no host new work, so that every job that runs can finish and nothing new
begins: before an upgrade of the machine, or its end. No job is killed. Webhooks
are still taken and written down, and the jobs wait in GitLab.

It is written in the database, so it outlives a restart of the daemon and of this
command, until "firerunner accept". One host alone: firerunner hosts drain HOST.

It returns with status 0 once no microVM is left, and with status 6 and a list of
what is left when --timeout has passed; the draining goes on.`,
		Example: `  firerunner drain                      # says how much is left, returns when nothing is
  firerunner drain --timeout 30m --json
  firerunner drain --wait=false         # returns at once
  firerunner accept                     # take work again`,
		Args: noHostArgument("drain"),
		RunE: func(command *cobra.Command, _ []string) error {
			return a.withConfigAndStore(command.Context(), func(ctx context.Context, _ *config.Config, store firerunner.Store) error {
				if err := setAllDraining(ctx, store, true, nil); err != nil {
					return err
				}
				var late error
				if wait {
					if late = a.awaitAllEmpty(ctx, store, timeout); late != nil && firerunner.CodeOf(late) != firerunner.Exhausted {
						return late
					}
				}
				return a.printDrain(ctx, store, late)
			})
		},
	}
	command.Flags().BoolVar(&wait, "wait", true, "wait until no microVM is left, and say how many are")
	command.Flags().DurationVar(&timeout, "timeout", 2*time.Hour, "give up waiting after this time; the draining goes on")
	return command
}

func newAcceptCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "accept",
		Short: "Take work again after drain",
		Long: `Lets every configured host take work again, those included that were drained one
by one. A running daemon notices within two seconds. One host alone:
firerunner hosts accept HOST.`,
		Args: noHostArgument("accept"),
		RunE: func(command *cobra.Command, _ []string) error {
			return a.withConfigAndStore(command.Context(), func(ctx context.Context, cfg *config.Config, store firerunner.Store) error {
				configured := map[string]bool{}
				for _, h := range cfg.HostList() {
					configured[h.Name] = true
				}
				// One that is not configured any more drains so that it can be removed.
				if err := setAllDraining(ctx, store, false, func(name string) bool { return configured[name] }); err != nil {
					return err
				}
				return a.printDrain(ctx, store, nil)
			})
		},
	}
}

// noHostArgument points to the command for one host.
func noHostArgument(verb string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return firerunner.Errorf(firerunner.Invalid, "%s is about the whole controller and takes no host", verb).
			WithHint("firerunner hosts %s %s", verb, args[0])
	}
}

// setAllDraining changes what an operator wants of every host (or those that which selects), in one transaction. Twice is
// the same.
func setAllDraining(ctx context.Context, store firerunner.Store, draining bool, which func(name string) bool) error {
	return store.Update(ctx, func(tx firerunner.Tx) error {
		hosts, err := tx.Hosts(ctx)
		if err != nil {
			return err
		}
		if which != nil {
			hosts = slices.DeleteFunc(hosts, func(h firerunner.Host) bool { return !which(h.Name) })
		}
		if len(hosts) == 0 {
			return firerunner.Errorf(firerunner.NotFound, "no host of the configuration is in the database yet").
				WithHint(`"firerunner serve" writes them down when it starts; does this command read the same configuration?`)
		}
		for _, h := range hosts {
			if h.Draining == draining {
				continue
			}
			if err := drainHost(ctx, tx, h, draining); err != nil {
				return err
			}
		}
		return nil
	})
}

// drainView is the result of drain and accept.
type drainView struct {
	State string     `json:"state"` // draining, drained (no microVM is left), or accepting
	Hosts []hostView `json:"hosts"`
	Left  []leftView `json:"left"` // what still has a microVM, or is about to
	Waits int        `json:"waiting"`
}

// leftView is one runner that a drain waits for.
type leftView struct {
	Runner  string           `json:"runner"`
	Host    string           `json:"host"`
	State   firerunner.State `json:"state"`
	Job     int64            `json:"job,omitempty"`
	Project int64            `json:"project"`
	Since   time.Time        `json:"since"`
}

func drainViewOf(ctx context.Context, store firerunner.Store) (drainView, error) {
	v := drainView{State: "drained", Left: []leftView{}}
	var err error
	if v.Hosts, err = hostViews(ctx, store); err != nil {
		return v, err
	}
	live, err := store.Runners(ctx, firerunner.RunnerQuery{Live: true})
	if err != nil {
		return v, err
	}
	for _, r := range live {
		switch {
		case r.Reserves() && r.Host != "":
			v.Left = append(v.Left, leftView{r.ID, r.Host, r.State, r.JobID, r.Demand.ProjectID, r.MovedAt})
		case r.State == firerunner.Queued:
			v.Waits++
		}
	}
	if len(v.Left) > 0 {
		v.State = "draining"
	}
	for _, h := range v.Hosts {
		if !h.draining {
			v.State = "accepting"
		}
	}
	return v, nil
}

// awaitAllEmpty waits until no microVM is left anywhere and says how many are, and of which jobs. Exhausted: the time is up.
func (a *app) awaitAllEmpty(ctx context.Context, store firerunner.Store, timeout time.Duration) error {
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for last := ""; ; {
		v, err := drainViewOf(ctx, store)
		if err != nil || len(v.Left) == 0 {
			return err
		}
		if said := v.progress(); said != last {
			fmt.Fprintf(a.Stderr, "firerunner: draining: %s\n", said)
			last = said
		}
		select {
		case <-tick.C:
		case <-waiting.Done():
			if ctx.Err() != nil {
				return firerunner.Errorf(firerunner.Unavailable, "waiting was broken off; the draining goes on").WithHint("firerunner drain waits again, firerunner accept ends it")
			}
			return firerunner.Errorf(firerunner.Exhausted, "%s after %s; the draining goes on", v.progress(), timeout)
		}
	}
}

// progress is how much is left, by state: "3 microVMs left (2 running, 1 stopping)".
func (v drainView) progress() string {
	in := map[firerunner.State]int{}
	for _, l := range v.Left {
		in[l.State]++
	}
	text := fmt.Sprintf("%d microVMs left", len(v.Left))
	separator := " ("
	for _, s := range firerunner.States() {
		if in[s] > 0 {
			text += fmt.Sprintf("%s%d %s", separator, in[s], s)
			separator = ", "
		}
	}
	if separator == ", " {
		text += ")"
	}
	return text
}

// printDrain shows how it stands. late is why the wait ended before everything was empty, if it did.
func (a *app) printDrain(ctx context.Context, store firerunner.Store, late error) error {
	v, err := drainViewOf(ctx, store)
	if err != nil {
		return err
	}
	err = a.print(v, func(w io.Writer) error {
		fmt.Fprintf(w, "%s: %d hosts, %s, %d runners wait\n", v.State, len(v.Hosts), v.progress(), v.Waits)
		for _, l := range v.Left {
			_, err := fmt.Fprintf(w, "  %s on %s: %s since %s, project %d, job %d\n",
				l.Runner, l.Host, l.State, l.Since.UTC().Format(time.RFC3339), l.Project, l.Job)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || late == nil || len(v.Left) == 0 { // the last one may have ended just now
		return err
	}
	return firerunner.Errorf(firerunner.Unavailable, "not empty: %w", late).
		WithHint(`microVMs end only while "firerunner serve" runs; firerunner drain waits again`)
}

// sayDraining reminds whoever starts a daemon that it was told to take no work: nobody else would.
func (d *daemon) sayDraining(ctx context.Context) {
	hosts, err := d.store.Hosts(ctx)
	if err != nil {
		return // whoever needs the store says so
	}
	drains := 0
	for _, h := range hosts {
		if h.Draining {
			drains++
		}
	}
	if drains > 0 {
		d.log.Warn("hosts drain: they take no new work", "draining", drains, "hosts", len(hosts), "remedy", "firerunner accept")
	}
}
