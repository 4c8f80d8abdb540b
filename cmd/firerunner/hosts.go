package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
)

func newHostsCommand(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "hosts",
		Short: "List, drain and remove hosts",
		Long: `Hosts are the machines that carry microVMs: this one, or those of the
configuration's list. These commands work on the database beside a running
"firerunner serve", which notices within two seconds.`,
		Example: `  firerunner hosts list
  firerunner hosts drain rack1-a --wait    # no new work; returns when it is empty
  firerunner hosts accept rack1-a`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(newHostsListCommand(a), newHostsDrainCommand(a), newHostsAcceptCommand(a), newHostsRemoveCommand(a))
	return command
}

func newHostsListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Show what each host carries, and whether it takes work",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return a.withStore(command.Context(), func(ctx context.Context, store firerunner.Store) error {
				all, err := hostViews(ctx, store)
				if err != nil {
					return err
				}
				return a.print(all, func(w io.Writer) error { return printHosts(w, all) })
			})
		},
	}
}

func newHostsDrainCommand(a *app) *cobra.Command {
	var wait bool
	var timeout time.Duration
	command := &cobra.Command{
		Use:   "drain HOST",
		Short: "Give a host no new work; what runs there goes on",
		Args:  cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return a.withStore(command.Context(), func(ctx context.Context, store firerunner.Store) error {
				if err := setDraining(ctx, store, args[0], true); err != nil {
					return err
				}
				if wait {
					if err := a.awaitEmpty(ctx, store, args[0], timeout); err != nil {
						return err
					}
				}
				err := a.printHost(ctx, store, args[0])
				if wait && firerunner.CodeOf(err) == firerunner.NotFound { // it was no longer configured, so it is gone
					return nil
				}
				return err
			})
		},
	}
	command.Flags().BoolVar(&wait, "wait", false, "wait until the host is empty, and say how many microVMs are left")
	command.Flags().DurationVar(&timeout, "timeout", 2*time.Hour, "give up waiting after this time; the host drains on")
	return command
}

func newHostsAcceptCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "accept HOST",
		Short: "Let a host that drains take work again",
		Args:  cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return a.withStore(command.Context(), func(ctx context.Context, store firerunner.Store) error {
				if err := setDraining(ctx, store, args[0], false); err != nil {
					return err
				}
				return a.printHost(ctx, store, args[0])
			})
		},
	}
}

func newHostsRemoveCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rm HOST",
		Short: "Forget a host that is empty",
		Long: `Forgets a host, unless something runs on it. One that is still in the
configuration comes back with the next start of "firerunner serve".`,
		Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return a.withStore(command.Context(), func(ctx context.Context, store firerunner.Store) error {
				if err := removeHost(ctx, store, args[0]); err != nil {
					return err
				}
				result := map[string]string{"removed": args[0]}
				return a.print(result, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "%s is removed\n", args[0])
					return err
				})
			})
		},
	}
}

// withStore opens the database that the daemon serves, without holding it. There must be one already.
func (a *app) withStore(ctx context.Context, do func(ctx context.Context, store firerunner.Store) error) error {
	return a.withConfigAndStore(ctx, func(ctx context.Context, _ *config.Config, store firerunner.Store) error { return do(ctx, store) })
}

func (a *app) withConfigAndStore(ctx context.Context, do func(ctx context.Context, cfg *config.Config, store firerunner.Store) error) error {
	return a.withDatabase(ctx, func(ctx context.Context, cfg *config.Config, store *openedStore) error { return do(ctx, cfg, store) })
}

func (a *app) withDatabase(ctx context.Context, do func(ctx context.Context, cfg *config.Config, store *openedStore) error) error {
	cfg, err := a.load(true)
	if err != nil {
		return err
	}
	db := databaseOf(cfg, slog.New(slog.DiscardHandler))
	if err := db.there(ctx); err != nil {
		return err
	}
	store, err := db.open(ctx)
	if err != nil {
		return err
	}
	err = do(ctx, cfg, store)
	if closed := store.Close(); err == nil {
		err = closed
	}
	return err
}

// hostView is a host as people and scripts see it.
type hostView struct {
	Name      string     `json:"name"`
	Driver    string     `json:"driver"`
	State     string     `json:"state"` // accepting, draining, trouble or lost
	Trouble   string     `json:"trouble,omitempty"`
	VMs       int        `json:"vms"`
	Slots     int        `json:"slots"`
	UsedVCPUs int        `json:"used_vcpus"`
	VCPUs     int        `json:"vcpus"`
	UsedMiB   int        `json:"used_memory_mb"`
	MemoryMiB int        `json:"memory_mb"`
	Labels    []string   `json:"labels,omitempty"`
	SeenAt    *time.Time `json:"seen_at,omitempty"`
	draining  bool       // State says it only where nothing worse is to be said
}

func hostViews(ctx context.Context, store firerunner.Store) ([]hostView, error) {
	hosts, err := store.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	live, err := store.Runners(ctx, firerunner.RunnerQuery{Live: true})
	if err != nil {
		return nil, err
	}
	all := make([]hostView, 0, len(hosts))
	for _, h := range hosts {
		v := hostView{
			Name: h.Name, Driver: h.Driver, State: hostState(h), Trouble: h.Trouble, Slots: h.Slots, VCPUs: h.VCPUs,
			MemoryMiB: h.MemoryMiB, Labels: h.Labels, draining: h.Draining,
		}
		if !h.SeenAt.IsZero() {
			v.SeenAt = &h.SeenAt
		}
		for _, r := range live {
			if r.Host == h.Name && r.Reserves() {
				v.VMs++
				v.UsedVCPUs += r.Size.VCPUs
				v.UsedMiB += r.Size.MemoryMiB
			}
		}
		all = append(all, v)
	}
	return all, nil
}

func hostState(h firerunner.Host) string {
	switch {
	case h.Lost:
		return "lost"
	case h.Draining:
		return "draining"
	case h.Trouble != "":
		return "trouble"
	}
	return "accepting"
}

func printHosts(w io.Writer, all []hostView) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tSTATE\tMICROVMS\tVCPUS\tMEMORY MIB\tLABELS\tNOTE")
	for _, v := range all {
		fmt.Fprintf(table, "%s\t%s\t%d/%d\t%d/%d\t%d/%d\t%s\t%s\n",
			v.Name, v.State, v.VMs, v.Slots, v.UsedVCPUs, v.VCPUs, v.UsedMiB, v.MemoryMiB, strings.Join(v.Labels, ","), v.Trouble)
	}
	return table.Flush()
}

// printHost shows one host after a change.
func (a *app) printHost(ctx context.Context, store firerunner.Store, name string) error {
	v, err := hostViewOf(ctx, store, name)
	if err != nil {
		return err
	}
	return a.print(v, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: %s, %d microVMs\n", v.Name, v.State, v.VMs)
		return err
	})
}

func hostViewOf(ctx context.Context, store firerunner.Store, name string) (hostView, error) {
	all, err := hostViews(ctx, store)
	if err != nil {
		return hostView{}, err
	}
	for _, v := range all {
		if v.Name == name {
			return v, nil
		}
	}
	return hostView{}, noHost(name)
}

func noHost(name string) error {
	return firerunner.Errorf(firerunner.NotFound, "there is no host %q", name).WithHint("firerunner hosts list")
}

// setDraining changes what an operator wants of a host. Twice is the same.
func setDraining(ctx context.Context, store firerunner.Store, name string, draining bool) error {
	return store.Update(ctx, func(tx firerunner.Tx) error {
		hosts, err := tx.Hosts(ctx)
		if err != nil {
			return err
		}
		for _, h := range hosts {
			if h.Name != name {
				continue
			}
			if h.Draining == draining {
				return nil
			}
			return drainHost(ctx, tx, h, draining)
		}
		return noHost(name)
	})
}

func drainHost(ctx context.Context, tx firerunner.Tx, h firerunner.Host, draining bool) error {
	h.Draining = draining
	if err := tx.SaveHost(ctx, h); err != nil {
		return err
	}
	return tx.AddEvent(ctx, operatorEvent(h.Name, map[bool]string{true: "drains, by an operator", false: "takes work again, by an operator"}[draining]))
}

func removeHost(ctx context.Context, store firerunner.Store, name string) error {
	return store.Update(ctx, func(tx firerunner.Tx) error {
		switch err := tx.RemoveHost(ctx, name); firerunner.CodeOf(err) {
		case "":
			return tx.AddEvent(ctx, operatorEvent(name, "removed, by an operator"))
		case firerunner.NotFound:
			return noHost(name)
		case firerunner.Conflict:
			return firerunner.Errorf(firerunner.Conflict, "host %s still carries microVMs: %w", name, err).
				WithHint("firerunner hosts drain %s --wait", name)
		default:
			return err
		}
	})
}

func operatorEvent(host, message string) firerunner.Event {
	return firerunner.Event{At: time.Now(), Kind: firerunner.EventHost, Actor: "operator", Message: fmt.Sprintf("host %s: %s", host, message)}
}

// awaitEmpty waits until nothing is left on a host and says how much is.
func (a *app) awaitEmpty(ctx context.Context, store firerunner.Store, name string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for last := -1; ; {
		v, err := hostViewOf(ctx, store, name)
		if ctx.Err() != nil {
			return firerunner.Errorf(firerunner.Unavailable, "host %s is not empty after %s; it drains on", name, timeout)
		}
		if firerunner.CodeOf(err) == firerunner.NotFound { // empty, and no longer configured
			return nil
		}
		if err != nil || v.VMs == 0 {
			return err
		}
		if v.VMs != last {
			fmt.Fprintf(a.Stderr, "firerunner: host %s drains: %d microVMs left\n", name, v.VMs)
			last = v.VMs
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}
