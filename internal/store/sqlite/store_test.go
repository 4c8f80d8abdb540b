package sqlite_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/sqlite"
	"github.com/firerunner/firerunner/internal/store/storetest"
)

func TestMain(m *testing.M) {
	if role() { // this process is one that a test started
		return
	}
	goleak.VerifyTestMain(m)
}

func newPath(t testing.TB) string { return filepath.Join(t.TempDir(), "data", "store.db") }

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func open(t testing.TB, config sqlite.Config) *sqlite.Store {
	t.Helper()
	if config.Path == "" {
		config.Path = newPath(t)
	}
	if config.Logger == nil {
		config.Logger = discard()
	}
	store, err := sqlite.Open(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

// stepTable is a queue that a test can look into: a table in the same file.
func stepTable(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS steps (id INTEGER PRIMARY KEY, step TEXT NOT NULL)`)
	return err
}

func enqueueInTable(ctx context.Context, tx *sql.Tx, s firerunner.Step) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO steps (step) VALUES (?)`, string(text))
	return err
}

func TestStore(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"Grouped": 0, "Alone": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Exercise(t, func(t *testing.T) storetest.Subject {
				path := newPath(t)
				store := open(t, sqlite.Config{
					Path: path, GroupSize: size, Enqueue: enqueueInTable,
					Migrate: []func(context.Context, *sql.DB) error{stepTable},
				})
				outside, err := sql.Open("sqlite", path)
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, outside.Close()) })
				return storetest.Subject{Store: store, Steps: func() (all []firerunner.Step) {
					rows, err := outside.Query(`SELECT step FROM steps ORDER BY id`)
					require.NoError(t, err)
					defer rows.Close()
					for rows.Next() {
						var text string
						var s firerunner.Step
						require.NoError(t, rows.Scan(&text))
						require.NoError(t, json.Unmarshal([]byte(text), &s))
						all = append(all, s)
					}
					require.NoError(t, rows.Err())
					return all
				}, Together: func(n int, do func(int, firerunner.Tx) error) []error {
					return together(t, store, n, do)
				}}
			})
		})
	}
}
