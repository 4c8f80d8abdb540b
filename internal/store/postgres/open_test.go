package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/postgres"
	"github.com/firerunner/firerunner/internal/store/postgrestest"
)

// TestOpenErr: each reason not to come up has its code and a hint, and none of them tells the password.
func TestOpenErr(t *testing.T) {
	t.Parallel()
	url := postgrestest.New(t)
	require.NoError(t, func() error {
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			return err
		}
		defer conn.Close(context.Background())
		_, err = conn.Exec(t.Context(), "DO $$ BEGIN CREATE ROLE guest LOGIN; EXCEPTION WHEN duplicate_object THEN END $$; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
		return err
	}())
	const password = "hunter2-not-this-one"
	wrong := postgrestest.Loopback(t, url, password)
	for name, test := range map[string]struct {
		url  string
		code firerunner.Code
	}{
		"no URL":                   {"", firerunner.Invalid},
		"no URL at all":            {"postgres://u:" + password + "@h:%zz/d", firerunner.Invalid},
		"another scheme":           {"mysql://u:" + password + "@h/d", firerunner.Invalid},
		"an unknown setting":       {wrong + "&sslmode=perhaps", firerunner.Invalid},
		"a wrong password":         {wrong, firerunner.Unauthorized},
		"no such database":         {strings.Replace(url, "/test", "/missing", 1), firerunner.NotFound},
		"nobody listens":           {"postgres://u:" + password + "@127.0.0.1:1/d", firerunner.Unavailable},
		"a user without any right": {strings.Replace(url, postgrestest.User+"@", "guest@", 1), firerunner.Unauthorized},
	} {
		var log strings.Builder
		_, err := postgres.Open(t.Context(), postgres.Config{URL: firerunner.Secret(test.url), Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.Error(t, err, name)
		require.Equal(t, test.code, firerunner.CodeOf(err), "%s: %v", name, err)
		require.NotEmpty(t, firerunner.HintOf(err), "%s: %v", name, err)
		for e := err; e != nil; e = errors.Unwrap(e) {
			require.NotContains(t, fmt.Sprintf("%v %+v", e, e), password, name)
		}
		require.NotContains(t, log.String(), password)
		require.NotContains(t, postgres.Place(firerunner.Secret(test.url)), password)
	}
}

func TestOpenErrNewer(t *testing.T) {
	t.Parallel()
	url := firerunner.Secret(freshURL(t))
	store := open(t, postgres.Config{URL: url})
	seen, err := postgres.Inspect(t.Context(), postgres.Config{URL: url})
	require.NoError(t, err)
	require.Equal(t, seen.Newest, seen.Version)
	require.True(t, seen.Owner)
	require.False(t, seen.Standby)
	require.NoError(t, seen.CheckVersion())
	newer := func(version int64) error {
		_, err := store.Pool().Exec(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES ($1, true)`, version)
		require.NoError(t, err)
		again, err := postgres.Open(t.Context(), postgres.Config{URL: url, Logger: discard()})
		if err == nil {
			require.NoError(t, again.Close())
		}
		return err
	}
	require.NoError(t, newer(seen.Newest+1), "one version newer is compatible")
	err = newer(seen.Newest + 2)
	requireCode(t, firerunner.Conflict, err)
	require.NotEmpty(t, firerunner.HintOf(err))

	empty, err := postgres.Inspect(t.Context(), postgres.Config{URL: firerunner.Secret(postgrestest.New(t))})
	require.NoError(t, err)
	require.Zero(t, empty.Version)
	requireCode(t, firerunner.NotFound, empty.CheckVersion())
}

// TestInvariants: the database refuses what the port forbids, whoever asks.
func TestInvariants(t *testing.T) {
	t.Parallel()
	store := open(t, postgres.Config{})
	ctx := t.Context()
	require.NoError(t, store.Update(ctx, func(tx firerunner.Tx) error {
		_, err := tx.SaveJob(ctx, firerunner.Job{ID: 1, Status: firerunner.JobSuccess})
		return errors.Join(err,
			tx.CreateRunner(ctx, firerunner.Runner{ID: "r", State: firerunner.Running, Outcome: firerunner.Failed, Desired: firerunner.Unwanted}),
			tx.AddEvent(ctx, firerunner.Event{Kind: firerunner.EventQueued}))
	}))
	require.NoError(t, store.SaveVM(ctx, firerunner.LedgerVM{ID: "a"}))
	_, err := store.Pool().Exec(ctx, `UPDATE vms SET used_at = 7, number = 3, seq = 3, exited = 1`)
	require.NoError(t, err)
	for _, query := range []string{
		`UPDATE events SET message = 'x'`, `DELETE FROM events`, `TRUNCATE events`,
		`UPDATE runners SET version = version + 1, state = 10`,
		`UPDATE runners SET version = version + 1, outcome = ''`,
		`UPDATE runners SET version = version + 1, outcome = 'succeeded'`,
		`UPDATE runners SET version = version + 1, desired = 'wanted'`,
		`UPDATE runners SET version = version + 1, id = 'other'`,
		`UPDATE runners SET version = version + 2`,
		`UPDATE runners SET message = 'x'`,
		`UPDATE jobs SET status = 'pending', rank = 20`,
		`UPDATE vms SET used_at = 0`, `UPDATE vms SET session = '\x01'`, `UPDATE vms SET exited = 0`, `UPDATE vms SET seq = 4`, `UPDATE vms SET number = 2`,
	} {
		_, err := store.Pool().Exec(ctx, query)
		require.ErrorContains(t, err, "conflict: ", query)
	}
}

// TestSessions: what each connection asked of the server is in force.
func TestSessions(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store := open(t, postgres.Config{URL: firerunner.Secret(postgrestest.Loopback(t, freshURL(t), postgrestest.Password))})
	var settings string
	const ask = `select string_agg(name || '=' || setting, ' ' order by name) from pg_settings where name in
		('synchronous_commit', 'statement_timeout', 'idle_in_transaction_session_timeout', 'tcp_keepalives_idle', 'client_connection_check_interval')`
	require.NoError(t, store.Pool().QueryRow(ctx, ask).Scan(&settings))
	require.Equal(t, "client_connection_check_interval=5000 idle_in_transaction_session_timeout=5000 statement_timeout=0 synchronous_commit=off tcp_keepalives_idle=10", settings)
	require.NoError(t, postgres.QueryWriter(ctx, store, ask, &settings))
	require.Equal(t, "client_connection_check_interval=5000 idle_in_transaction_session_timeout=5000 statement_timeout=20000 synchronous_commit=on tcp_keepalives_idle=10", settings)
}

// TestEventsOfOthersInOrder: also who appends without the store waits for those that append with it.
func TestEventsOfOthersInOrder(t *testing.T) {
	t.Parallel()
	store := open(t, postgres.Config{})
	ctx := t.Context()
	inserted := make(chan error, 1)
	require.NoError(t, store.Update(ctx, func(tx firerunner.Tx) error {
		go func() {
			_, err := store.Pool().Exec(ctx, `INSERT INTO events (at, kind, runner_id, job_id, project_id, from_state, to_state, took, actor, reason, message)
				VALUES (0, 'x', '', 0, 0, 0, 0, 0, '', '', 'second')`)
			inserted <- err
		}()
		require.Eventually(t, func() bool {
			var waits int
			err := store.Pool().QueryRow(ctx, `select count(*) from pg_stat_activity where wait_event = 'advisory' and datname = current_database()`).Scan(&waits)
			return err == nil && waits == 1
		}, 30*time.Second, 5*time.Millisecond)
		return tx.AddEvent(ctx, firerunner.Event{Kind: firerunner.EventNotice, Message: "first"})
	}))
	require.NoError(t, <-inserted)
	events, err := store.Events(ctx, firerunner.EventQuery{})
	require.NoError(t, err)
	require.Equal(t, []string{"first", "second"}, []string{events[0].Message, events[1].Message})
}

// TestHold: one process serves a database.
func TestHold(t *testing.T) {
	t.Parallel()
	url := firerunner.Secret(freshURL(t))
	config := postgres.Config{URL: url, Name: "the first", Logger: discard()}
	held, err := postgres.Hold(t.Context(), config)
	require.NoError(t, err)
	_, err = postgres.Hold(t.Context(), postgres.Config{URL: url, Logger: discard()})
	requireCode(t, firerunner.Conflict, err)
	require.ErrorContains(t, err, "the first")
	require.NotEmpty(t, firerunner.HintOf(err))
	held.Release()

	// The session is lost and nobody else comes: it is taken again. Somebody else comes: the first learns it.
	store := open(t, postgres.Config{URL: url})
	held, err = postgres.Hold(t.Context(), config)
	require.NoError(t, err)
	kick := func() {
		_, err := store.Pool().Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'the first' and datname = current_database()`)
		require.NoError(t, err)
	}
	kick()
	require.Eventually(t, func() bool {
		another, err := postgres.Hold(t.Context(), postgres.Config{URL: url, Logger: discard(), Name: "the second"})
		if err != nil { // the first has it again, or still
			kick()
			return false
		}
		select {
		case err = <-held.Lost():
		case <-time.After(20 * time.Second):
		}
		another.Release()
		return firerunner.CodeOf(err) == firerunner.Conflict
	}, 60*time.Second, 10*time.Millisecond)
	held.Release()
}

// TestUpdateTwoStores: stores of two processes take turns, and nothing that one reads in an Update is changed by the other.
func TestUpdateTwoStores(t *testing.T) {
	t.Parallel()
	url := firerunner.Secret(freshURL(t))
	stores := []*postgres.Store{open(t, postgres.Config{URL: url}), open(t, postgres.Config{URL: url})}
	ctx := t.Context()
	require.NoError(t, stores[0].Update(ctx, func(tx firerunner.Tx) error { return tx.CreateRunner(ctx, firerunner.Runner{ID: "r"}) }))
	var all sync.WaitGroup
	const each = 50
	for i := range 4 {
		all.Go(func() {
			for range each {
				if err := stores[i%2].Update(ctx, func(tx firerunner.Tx) error {
					r, err := tx.Runner(ctx, "r")
					if err != nil {
						return err
					}
					r.Report++
					return tx.SaveRunner(ctx, &r)
				}); err != nil {
					t.Errorf("update: %v", err)
				}
			}
		})
	}
	all.Wait()
	r, err := stores[1].Runner(ctx, "r")
	require.NoError(t, err)
	require.Equal(t, int64(4*each), r.Report)

	// One that does not end makes others wait no longer than they want to.
	inside, release := make(chan struct{}), make(chan struct{})
	all.Go(func() {
		if err := stores[0].Update(ctx, func(firerunner.Tx) error { close(inside); <-release; return nil }); err != nil {
			t.Errorf("the one that others wait for: %v", err)
		}
	})
	<-inside
	impatient := open(t, postgres.Config{URL: url, LockTimeout: 50 * time.Millisecond})
	err = impatient.Update(ctx, func(firerunner.Tx) error { t.Error("must not run"); return nil })
	requireCode(t, firerunner.Unavailable, err)
	require.NotEmpty(t, firerunner.HintOf(err))
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	err = stores[1].Update(short, func(firerunner.Tx) error { t.Error("must not run"); return nil })
	require.ErrorIs(t, err, context.DeadlineExceeded)
	requireCode(t, firerunner.Unavailable, err)
	require.NoError(t, stores[1].Ping(ctx), "readers do not wait")
	close(release)
	all.Wait()
	require.NoError(t, stores[1].Update(ctx, func(tx firerunner.Tx) error { return tx.AddEvent(ctx, firerunner.Event{}) }))
}

// TestAway: while the server is away everything is Unavailable, and when it is back everything goes on.
func TestAway(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t, postgrestest.Options{})
	url := firerunner.Secret(server.URL("postgres"))
	store := open(t, postgres.Config{URL: url})
	held, err := postgres.Hold(t.Context(), postgres.Config{URL: url, Logger: discard()})
	require.NoError(t, err)
	defer held.Release()
	ctx := t.Context()
	add := func(tx firerunner.Tx) error { return tx.AddEvent(ctx, firerunner.Event{Kind: firerunner.EventDaemon}) }
	require.NoError(t, store.Update(ctx, add))

	// In the middle of a transaction: it fails, and nothing of it is kept.
	err = store.Update(ctx, func(tx firerunner.Tx) error {
		if err := add(tx); err != nil {
			return err
		}
		if err := server.Restart(ctx); err != nil {
			return err
		}
		return tx.AddEvent(ctx, firerunner.Event{})
	})
	requireCode(t, firerunner.Unavailable, err)
	// Between two: the first use finds a dead connection and takes another.
	require.NoError(t, store.Update(ctx, add))
	require.NoError(t, server.Restart(ctx))
	require.NoError(t, store.Update(ctx, add))
	events, err := store.Events(ctx, firerunner.EventQuery{})
	require.NoError(t, err)
	require.Len(t, events, 3)
	select {
	case err := <-held.Lost():
		require.NoError(t, err)
	default:
	}
}
