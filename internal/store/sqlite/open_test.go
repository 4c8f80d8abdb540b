package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

func requireCode(t *testing.T, want firerunner.Code, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, want, firerunner.CodeOf(err), "%v", err)
}

func exec1(t *testing.T, db *sql.DB, query string, args ...any) {
	t.Helper()
	_, err := db.ExecContext(t.Context(), query, args...)
	require.NoError(t, err)
}

// TestOpenFiles: nobody else may read them, whatever they are called.
func TestOpenFiles(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"store.db", "a b", "100%", "%20", "what?mode=memory", "#1", "ä&_pragma=x"} {
		path := filepath.Join(t.TempDir(), "new", name, name)
		store := open(t, sqlite.Config{Path: path})
		require.NoError(t, store.Update(t.Context(), func(tx firerunner.Tx) error {
			return tx.SaveHost(t.Context(), firerunner.Host{Name: "a"})
		}))
		release, err := sqlite.Hold(path)
		require.NoError(t, err)
		release()
		for _, suffix := range []string{"", "-wal", "-shm", ".lock", ".migrate"} {
			info, err := os.Stat(path + suffix)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o600), info.Mode(), path+suffix)
		}
		info, err := os.Stat(filepath.Dir(path))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	}
}

func TestOpenTakesAccessAway(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	require.NoError(t, os.WriteFile(path, nil, 0o644))
	open(t, sqlite.Config{Path: path})
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
}

func TestOpenErr(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte("this is no database, and long enough to be one if it were"), 0o600))
	for name, test := range map[string]struct {
		path string
		code firerunner.Code
	}{
		"no path":         {"", firerunner.Invalid},
		"a folder":        {dir, firerunner.Unavailable},
		"a device":        {"/dev/null", firerunner.Invalid},
		"below a file":    {filepath.Join(file, "store.db"), firerunner.Unavailable},
		"not a database":  {file, firerunner.Internal},
		"no such process": {"/proc/0/store.db", firerunner.Unavailable},
	} {
		_, err := sqlite.Open(t.Context(), sqlite.Config{Path: test.path, Logger: discard()})
		require.Error(t, err, name)
		require.Equal(t, test.code, firerunner.CodeOf(err), "%s: %v", name, err)
	}
	_, err := sqlite.Hold(dir)
	requireCode(t, firerunner.Unavailable, err)

	broken := errors.New("broken")
	_, err = sqlite.Open(t.Context(), sqlite.Config{Path: newPath(t), Logger: discard(), Migrate: []func(context.Context, *sql.DB) error{
		func(context.Context, *sql.DB) error { return broken },
	}})
	require.ErrorIs(t, err, broken)
}

func TestOpenErrNewer(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	store := open(t, sqlite.Config{Path: path})
	seen, err := sqlite.Inspect(t.Context(), path)
	require.NoError(t, err)
	require.Equal(t, seen.Newest, seen.Version)
	exec1(t, store.DB(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (?, 1)`, seen.Newest+1)
	open(t, sqlite.Config{Path: path}) // one version newer is compatible
	exec1(t, store.DB(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`)
	require.NoError(t, store.CheckFile(t.Context()))
	_, err = sqlite.Open(t.Context(), sqlite.Config{Path: path, Logger: discard()})
	requireCode(t, firerunner.Conflict, err)
	require.NotEmpty(t, firerunner.HintOf(err))
}

// TestOpenErrLocked: a migration that another runs is waited for as long as the context lives.
func TestOpenErrLocked(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	inside, release := make(chan struct{}), make(chan struct{})
	done := make(chan error)
	go func() {
		store, err := sqlite.Open(context.Background(), sqlite.Config{Path: path, Logger: discard(), Migrate: []func(context.Context, *sql.DB) error{
			func(context.Context, *sql.DB) error { close(inside); <-release; return nil },
		}})
		if err == nil {
			err = store.Close()
		}
		done <- err
	}()
	<-inside
	ctx, cancel := context.WithTimeout(t.Context(), 30_000_000)
	defer cancel()
	_, err := sqlite.Open(ctx, sqlite.Config{Path: path, Logger: discard()})
	requireCode(t, firerunner.Unavailable, err)
	close(release)
	require.NoError(t, <-done)
}

// TestInvariants: the database refuses what the port forbids, whoever asks.
func TestInvariants(t *testing.T) {
	t.Parallel()
	store := open(t, sqlite.Config{})
	ctx := t.Context()
	require.NoError(t, store.Update(ctx, func(tx firerunner.Tx) error {
		_, err := tx.SaveJob(ctx, firerunner.Job{ID: 1, Status: firerunner.JobSuccess})
		return errors.Join(err,
			tx.CreateRunner(ctx, firerunner.Runner{ID: "r", State: firerunner.Running, Outcome: firerunner.Failed, Desired: firerunner.Unwanted}),
			tx.AddEvent(ctx, firerunner.Event{Kind: firerunner.EventQueued}))
	}))
	for _, query := range []string{
		`UPDATE events SET message = 'x'`,
		`DELETE FROM events`,
		`UPDATE runners SET version = version + 1, state = 10`,
		`UPDATE runners SET version = version + 1, outcome = ''`,
		`UPDATE runners SET version = version + 1, outcome = 'succeeded'`,
		`UPDATE runners SET version = version + 1, desired = 'wanted'`,
		`UPDATE runners SET version = version + 1, id = 'other'`,
		`UPDATE runners SET version = version + 2`,
		`UPDATE runners SET message = 'x'`,
		`UPDATE jobs SET status = 'pending', rank = 20`,
	} {
		_, err := store.DB().ExecContext(ctx, query)
		require.ErrorContains(t, err, "conflict: ", query)
	}
	_, err := store.DB().ExecContext(ctx, `UPDATE runners SET version = version + 1, state = 'running'`)
	require.ErrorContains(t, err, "cannot store TEXT", "tables are strict")
	exec1(t, store.DB(), `UPDATE runners SET version = version + 1, state = 80`)
}

// TestPlans: what is asked all the time is answered from an index, however long the history.
func TestPlans(t *testing.T) {
	t.Parallel()
	store := open(t, sqlite.Config{})
	queries, err := os.ReadFile("query.sql")
	require.NoError(t, err)
	for name, index := range map[string]string{
		"RunnersLive": "runners_live", "RunnersLiveOf": "runners_live", "RunnersByGitLabID": "runners_gitlab",
		"RunnersSince": "runners_created", "JobsOpen": "jobs_open", "JobsOpenOf": "jobs_open", "JobsByRunner": "jobs_runner",
		"EventsOfRunner": "events_runner", "EventsOfJob": "events_job", "EventsAfter": "PRIMARY KEY", "ProjectsSince": "projects_seen",
		"DeliveriesPurge": "deliveries_at", "RunnersOfJob": "runners_job", "RunnersQueued": "runners_queued",
		"RunnersOverdue": "runners_deadline", "RunnersLatestOf": "runners_demand",
	} {
		_, query, found := strings.Cut(string(queries), "-- name: "+name+" :")
		require.True(t, found, name)
		_, query, _ = strings.Cut(query, "\n")
		query, _, _ = strings.Cut(query, ";")
		rows, err := store.DB().QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+regexp.MustCompile(`@\w+`).ReplaceAllString(query, "1"), 1, 1)
		require.NoError(t, err, name)
		var plan string
		for rows.Next() {
			var id, parent, unused int
			var detail string
			require.NoError(t, rows.Scan(&id, &parent, &unused, &detail))
			plan += detail + "; "
		}
		require.NoError(t, rows.Err())
		require.NoError(t, rows.Close())
		require.Contains(t, plan, index, name)
	}
}
