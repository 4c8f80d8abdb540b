package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/peers"
)

func newControllersCommand(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "controllers",
		Short: "List the controllers of this site, and forget those that are gone",
		Long: `Several daemons may serve one PostgreSQL. Each is a controller with a name
(controller.name) and a lease that it renews all the time. These commands read
the database, so they answer also where no daemon runs.

  leads           serves, and does what is done once for the whole site
  serves          moves the runners that bear its name
  stood in for    is away, and another acts for it until nothing of it is left
  away            nobody acts for it: start it again

RUNNERS are the live ones that bear its name. The site's time, SINCE among it, is
that of the database's clock.`,
		Example: `  firerunner controllers
  firerunner controllers list --json | jq '.[] | select(.state == "away")'
  firerunner controllers rm rack2      # it never comes back, and nothing of it is left`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return a.listControllers(command.Context()) },
	}
	command.AddCommand(&cobra.Command{
		Use:   "list",
		Short: "Show each controller, whether it is there, and how much it has to do",
		Args:  cobra.NoArgs,
		RunE:  func(command *cobra.Command, _ []string) error { return a.listControllers(command.Context()) },
	}, newControllersRemoveCommand(a))
	return command
}

func newControllersRemoveCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME",
		Short: "Forget a controller that is away and of which nothing is left",
		Long: `Forgets a controller that died and will not be started again. One that ends with
nothing left forgets itself.

It is refused while the controller serves or another stands in for it, while a
live runner bears its name, while its part of the ledger has microVMs, and while
a host is its machine. The unnamed controller is "".`,
		Example: `  firerunner hosts rm rack2            # its machine first
  firerunner controllers rm rack2`,
		Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return a.withDatabase(command.Context(), func(ctx context.Context, cfg *config.Config, store *openedStore) error {
				if err := forgetController(ctx, cfg, store, args[0]); err != nil {
					return err
				}
				return a.print(map[string]string{"removed": args[0]}, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "%s is forgotten\n", nameOf(args[0]))
					return err
				})
			})
		},
	}
}

// controllerView is a controller as people and scripts see it.
type controllerView struct {
	Name      string     `json:"name"`
	Machine   string     `json:"machine,omitempty"`
	Version   string     `json:"version,omitempty"`
	Driver    string     `json:"driver,omitempty"`
	State     string     `json:"state"`        // leads, serves, away or stood in for
	By        string     `json:"by,omitempty"` // who stands in for it
	Since     *time.Time `json:"since,omitempty"`
	StartedAt *time.Time `json:"started_at,omitempty"`
	Endpoint  string     `json:"endpoint,omitempty"` // where guests call it
	Runners   int        `json:"runners"`
}

func (a *app) listControllers(ctx context.Context) error {
	return a.withDatabase(ctx, func(ctx context.Context, cfg *config.Config, store *openedStore) error {
		all := []controllerView{}
		if path := cfg.SQLitePath(); path != "" {
			return a.print(all, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "one process alone serves a file, %s: there are no others\n", path)
				return err
			})
		}
		all, err := controllerViews(ctx, store)
		if err != nil {
			return err
		}
		return a.print(all, func(w io.Writer) error { return printControllers(w, all) })
	})
}

// controllerViews are all that are registered, and those that are not whose names live runners bear.
func controllerViews(ctx context.Context, store *openedStore) ([]controllerView, error) {
	seen, err := peers.See(ctx, store, store)
	if err != nil {
		return nil, err
	}
	runners, err := runnersBy(ctx, store)
	if err != nil {
		return nil, err
	}
	all := make([]controllerView, 0, len(seen))
	for _, s := range seen {
		v := controllerView{
			Name: s.Name, Machine: s.Machine, Version: s.Version, Driver: s.Driver, State: string(s.State), By: s.By,
			Since: known(s.Since), StartedAt: known(s.StartedAt), Endpoint: s.Endpoint, Runners: runners[s.Name],
		}
		delete(runners, s.Name)
		all = append(all, v)
	}
	for name, count := range runners {
		all = append(all, controllerView{Name: name, State: string(peers.Away), Runners: count})
	}
	slices.SortFunc(all, func(a, b controllerView) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// runnersBy counts the live runners by the controller whose name they bear. Before one is placed it bears none.
func runnersBy(ctx context.Context, store firerunner.Reader) (map[string]int, error) {
	live, err := store.Runners(ctx, firerunner.RunnerQuery{Live: true})
	if err != nil {
		return nil, err
	}
	count := map[string]int{}
	for _, r := range live {
		if r.State >= firerunner.Placed {
			count[r.Controller]++
		}
	}
	return count, nil
}

func known(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	return &at
}

// nameOf is a controller's name for people: that of one may be empty.
func nameOf(controller string) string { return cmp.Or(controller, "(unnamed)") }

func printControllers(w io.Writer, all []controllerView) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tMACHINE\tVERSION\tDRIVER\tSTATE\tSINCE\tRUNNERS")
	for _, v := range all {
		state, since := v.State, "-"
		if v.State == string(peers.StoodInFor) {
			state += " by " + nameOf(v.By)
		}
		if v.Since != nil {
			since = v.Since.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%d\n", nameOf(v.Name), cmp.Or(v.Machine, "-"), cmp.Or(v.Version, "-"),
			cmp.Or(v.Driver, "-"), state, since, v.Runners)
	}
	return table.Flush()
}
