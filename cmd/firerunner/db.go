package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/archive"
)

func newDBCommand(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "db",
		Short: "Migrate, check and move the database",
		Long: `The database is what the key "database" names: an SQLite file, or PostgreSQL 15
or newer. "firerunner serve" brings its tables up to date by itself.

To move a site to another database: stop the daemon, export, name the new
database in the configuration, import, check, start the daemon. Every row moves,
and every step that was not done. Keep the old database until you are content.`,
		Example: `  systemctl stop firerunner
  firerunner db export site.ndjson
  $EDITOR /etc/firerunner/config.yaml   # database: postgres://firerunner@db.example.com/firerunner
  firerunner db import site.ndjson && firerunner db check
  systemctl start firerunner`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(newDBMigrateCommand(a), newDBCheckCommand(a), newDBExportCommand(a), newDBImportCommand(a))
	return command
}

// database is the one that the configuration names.
func (a *app) database() (database, error) {
	cfg, err := a.load(true)
	if err != nil {
		return database{}, err
	}
	return databaseOf(cfg, slog.New(slog.DiscardHandler)), nil
}

func newDBMigrateCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "migrate",
		Short: "Bring the tables up to date",
		Long: `Makes the tables where there are none, and brings them up to this program's
version. It may run beside daemons of the version before: each migration leaves
their statements working. Any number of processes may do it at once.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx := command.Context()
			db, err := a.database()
			if err != nil {
				return err
			}
			before, err := db.inspect(ctx)
			if err != nil && firerunner.CodeOf(err) != firerunner.NotFound || err != nil && db.path == "" {
				return err
			}
			store, err := db.open(ctx)
			if err != nil {
				return err
			}
			defer store.Close()
			after, err := db.inspect(ctx)
			if err != nil {
				return err
			}
			result := struct {
				condition
				Before int64 `json:"schema_before"`
			}{after, before.Version}
			return a.print(result, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s: version %d, was %d\n", after.Place, after.Version, before.Version)
				return err
			})
		},
	}
}

func newDBCheckCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check the database's version, and what must be so in every row",
		Long: `Looks at the version of the tables, counts the rows of each, and checks what must
be so. Nothing is changed, and it may run beside a daemon. Exit status 1 if
something is wrong.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return a.checkDatabase(command.Context()) },
	}
}

func (a *app) checkDatabase(ctx context.Context) error {
	db, err := a.database()
	if err != nil {
		return err
	}
	if err := db.there(ctx); err != nil {
		return err
	}
	seen, err := db.inspect(ctx)
	if err != nil {
		return err
	}
	if seen.Version != seen.Newest {
		return firerunner.Errorf(firerunner.Conflict, "the tables have version %d, this program makes %d", seen.Version, seen.Newest).
			WithHint(`"firerunner db migrate" brings older ones up to date`)
	}
	store, err := db.open(ctx)
	if err != nil {
		return err
	}
	defer store.Close()
	result := struct {
		condition
		OK     bool              `json:"ok"`
		Rows   map[string]int64  `json:"rows"`
		Checks []archive.Finding `json:"checks"`
	}{condition: seen, OK: true}
	if store.checkFile != nil {
		if err := store.checkFile(ctx); err != nil {
			return err
		}
	}
	err = store.within(ctx, false, func(s archive.Site) (err error) {
		if result.Rows, err = archive.Count(ctx, s); err != nil {
			return err
		}
		result.Checks, err = archive.Inspect(ctx, s)
		return err
	})
	if err != nil {
		return err
	}
	wrong := 0
	for _, f := range result.Checks {
		if f.Wrong > 0 {
			wrong++
		}
	}
	result.OK = wrong == 0
	err = a.print(result, func(w io.Writer) error {
		fmt.Fprintf(w, "%s: version %d\n", seen.Place, seen.Version)
		printRows(w, result.Rows)
		for _, f := range result.Checks {
			if f.Wrong > 0 {
				fmt.Fprintf(w, "WRONG  %s: not so %d times\n", f.What, f.Wrong)
			} else {
				fmt.Fprintf(w, "ok     %s\n", f.What)
			}
		}
		return nil
	})
	if err == nil && wrong > 0 {
		err = silentError{firerunner.Errorf(firerunner.Internal, "%d checks failed", wrong)}
	}
	return err
}

func printRows(w io.Writer, rows map[string]int64) {
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		fmt.Fprintf(w, "%9d  %s\n", rows[name], name)
	}
}

const ruleOfMoving = `
The daemon must be stopped: what it writes meanwhile would be in one database
only. This is checked, and while it runs none can be started.`

func newDBExportCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "export FILE",
		Short: "Write the whole site to a file",
		Long: `Writes every row of every table, and every step that is not done, to a new file
that only this user can read. It is there when it is whole, with a checksum.
` + ruleOfMoving,
		Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return a.move(command.Context(), args[0], false, func(ctx context.Context, s archive.Site, progress func(string, int64)) (archive.Footer, error) {
				return archive.WriteFile(ctx, args[0], s, archive.Header{By: buildVersion(), At: time.Now().UTC()}, progress)
			})
		},
	}
}

func newDBImportCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE",
		Short: "Read a whole site from a file into an empty database",
		Long: `Makes the tables and writes everything that the file holds into them, in one
transaction: all of it or nothing. The database must be empty. A file that is
broken, or that a newer FireRunner made, is refused before anything is written.
` + ruleOfMoving,
		Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return firerunner.Errorf(firerunner.NotFound, "import: %w", err).WithHint(`"firerunner db export FILE" makes one`)
			}
			defer f.Close()
			if _, _, err := archive.Check(f); err != nil {
				return err
			}
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return firerunner.Errorf(firerunner.Unavailable, "import: %w", err)
			}
			return a.move(command.Context(), args[0], true, func(ctx context.Context, s archive.Site, progress func(string, int64)) (archive.Footer, error) {
				return archive.Load(ctx, f, s, progress)
			})
		},
	}
}

// move holds the database, so that no daemon writes meanwhile, and has do move its rows.
func (a *app) move(ctx context.Context, file string, in bool, do func(context.Context, archive.Site, func(string, int64)) (archive.Footer, error)) error {
	db, err := a.database()
	if err != nil {
		return err
	}
	if !in {
		if err := db.there(ctx); err != nil {
			return err
		}
	}
	lost := make(chan error, 1)
	release, err := db.hold(ctx, false, lost)
	if err != nil {
		return err
	}
	defer release()
	store, err := db.open(ctx)
	if err != nil {
		return err
	}
	defer store.Close()
	var footer archive.Footer
	if err := store.within(ctx, in, func(s archive.Site) (err error) {
		if footer, err = do(ctx, s, a.progress()); err != nil {
			return err
		}
		select {
		case err = <-lost:
		default:
		}
		return err
	}); err != nil {
		return err
	}
	result := struct {
		File   string           `json:"file"`
		Place  string           `json:"place"`
		Rows   map[string]int64 `json:"rows"`
		SHA256 string           `json:"sha256"`
	}{file, db.place(), footer.Rows, footer.SHA256}
	return a.print(result, func(w io.Writer) error {
		printRows(w, footer.Rows)
		verb := "exported from"
		if in {
			verb = "imported into"
		}
		_, err := fmt.Fprintf(w, "%s %s: %s\n", verb, db.place(), file)
		return err
	})
}

const progressEvery = time.Second

// progress tells people how far it is, now and then.
func (a *app) progress() func(table string, rows int64) {
	last := time.Now()
	return func(table string, rows int64) {
		if a.json || rows%1000 != 0 || time.Since(last) < progressEvery {
			return
		}
		last = time.Now()
		fmt.Fprintf(a.Stderr, "%9d  %s ...\n", rows, table)
	}
}
