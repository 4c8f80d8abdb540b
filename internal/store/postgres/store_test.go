package postgres_test

import (
	"context"
	"encoding/json"
	"flag"
	"log/slog"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/postgres"
	"github.com/firerunner/firerunner/internal/store/postgrestest"
	"github.com/firerunner/firerunner/internal/store/storetest"
)

// TestMain takes fewer random courses than rapid's 100: each statement is a round trip to a server, and SQLite's tests take all
// of them. More with -rapid.checks=1000.
func TestMain(m *testing.M) {
	if role() { // this process is one that a test started
		return
	}
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "rapid.checks" })
	if !chosen {
		if err := flag.Set("rapid.checks", "40"); err != nil {
			os.Exit(2)
		}
	}
	goleak.VerifyTestMain(m)
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// freshURL is a new database with tables in it.
func freshURL(t testing.TB) string {
	return postgrestest.Copy(t, "store", func(url string) error {
		store, err := postgres.Open(context.Background(), postgres.Config{
			URL: firerunner.Secret(url), Logger: discard(), Migrate: []func(context.Context, *pgxpool.Pool) error{stepTable},
		})
		if err != nil {
			return err
		}
		return store.Close()
	})
}

func open(t testing.TB, config postgres.Config) *postgres.Store {
	t.Helper()
	if config.URL == "" {
		config.URL = firerunner.Secret(freshURL(t))
	}
	if config.Logger == nil {
		config.Logger = discard()
	}
	store, err := postgres.Open(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// stepTable is a queue that a test can look into: a table in the same database.
func stepTable(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, `CREATE TABLE IF NOT EXISTS steps (id BIGINT GENERATED ALWAYS AS IDENTITY, step TEXT NOT NULL)`)
	return err
}

func enqueueInTable(batch *pgx.Batch, s firerunner.Step) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	batch.Queue(`INSERT INTO steps (step) VALUES ($1)`, string(text))
	return nil
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Exercise(t, func(t *testing.T) storetest.Subject {
		store := open(t, postgres.Config{Enqueue: enqueueInTable})
		return storetest.Subject{Store: store, Steps: steps(t, store), Together: func(n int, do func(int, firerunner.Tx) error) []error {
			return together(t, store, n, do)
		}}
	})
}

// steps are those in the table of stepTable, in the order of enqueueing.
func steps(t *testing.T, store *postgres.Store) func() []firerunner.Step {
	return func() (all []firerunner.Step) {
		rows, err := store.Pool().Query(context.Background(), `SELECT step FROM steps ORDER BY id`)
		require.NoError(t, err)
		texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		for _, text := range texts {
			var s firerunner.Step
			require.NoError(t, json.Unmarshal([]byte(text), &s))
			all = append(all, s)
		}
		return all
	}
}

func TestLedger(t *testing.T) {
	t.Parallel()
	storetest.ExerciseLedger(t, func(t *testing.T) firerunner.Ledger { return open(t, postgres.Config{}) })
}

func requireCode(t testing.TB, want firerunner.Code, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, want, firerunner.CodeOf(err), "%v", err)
}
