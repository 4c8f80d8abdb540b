package archive_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/queue"
	"github.com/firerunner/firerunner/internal/store/archive"
	"github.com/firerunner/firerunner/internal/store/postgres"
	"github.com/firerunner/firerunner/internal/store/postgrestest"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// engine is a site on one engine, as cmd wires it.
type engine struct {
	store interface {
		firerunner.Store
		firerunner.Ledger
		firerunner.Registry
	}
	within func(do func(archive.Site) error) error // commits unless do fails
}

func onSQLite(t testing.TB) engine {
	t.Helper()
	enqueuer, err := queue.NewEnqueuer()
	require.NoError(t, err)
	store, err := sqlite.Open(t.Context(), sqlite.Config{
		Path: filepath.Join(t.TempDir(), "store.db"), Enqueue: enqueuer.Enqueue, Logger: slog.New(slog.DiscardHandler),
		Migrate: []func(context.Context, *sql.DB) error{queue.Migrate},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return engine{store, func(do func(archive.Site) error) error {
		tx, err := store.DB().BeginTx(t.Context(), nil)
		require.NoError(t, err)
		if err := do(archive.SQLite(tx, archive.Queue[*sql.Tx]{Pending: queue.Pending, Enqueue: enqueuer.Enqueue})); err != nil {
			return errors.Join(err, tx.Rollback())
		}
		return tx.Commit()
	}}
}

func onPostgres(t testing.TB) engine {
	t.Helper()
	enqueuer, err := queue.NewEnqueuer()
	require.NoError(t, err)
	store, err := postgres.Open(t.Context(), postgres.Config{
		URL: firerunner.Secret(postgrestest.New(t)), Enqueue: enqueuer.EnqueuePostgres, Logger: slog.New(slog.DiscardHandler),
		Migrate: []func(context.Context, *pgxpool.Pool) error{queue.MigratePostgres},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return engine{store, func(do func(archive.Site) error) error {
		return pgx.BeginFunc(t.Context(), store.Pool(), func(tx pgx.Tx) error {
			return do(archive.Postgres(tx, archive.Queue[pgx.Tx]{Pending: queue.PendingInPostgres, Enqueue: enqueuer.EnqueueInPostgres}))
		})
	}}
}

// noon is today's, with microseconds: deliveries of last week are forgotten.
var noon = time.Now().UTC().Truncate(24 * time.Hour).Add(12*time.Hour + 123456*time.Microsecond)

// fill writes a site with something in every column.
func fill(t testing.TB, e engine) {
	t.Helper()
	ctx := t.Context()
	const odd = "it's \"a\" name\n\t 火🔥 \\ \x00"
	require.NoError(t, e.store.Update(ctx, func(tx firerunner.Tx) error {
		var errs []error
		for i := range 300 {
			id := fmt.Sprintf("runner%010d", i)
			r := firerunner.NewRunner(id, firerunner.Demand{ProjectID: 7, Tags: "a,b"}, noon.Add(time.Duration(i)*time.Second))
			r.State, r.Host, r.Controller, r.Message, r.JobID, r.Report = firerunner.Running, "a", "a", odd, 1<<52+int64(i), 3
			r.JobKey = "sealed_Key-9"
			r.Address = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			if i%3 == 0 {
				r.State, r.Outcome = firerunner.Gone, firerunner.Succeeded
			}
			_, err := tx.SaveJob(ctx, firerunner.Job{ID: r.JobID, ProjectID: 7, Name: odd, Status: firerunner.JobRunning, Tags: "a,b", RunnerID: id, Ours: true, SeenAt: noon})
			errs = append(errs, err, tx.CreateRunner(ctx, r),
				tx.AddEvent(ctx, firerunner.Event{At: noon, Kind: firerunner.EventQueued, RunnerID: id, Took: -1, Message: odd}),
				tx.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepAdvance, RunnerID: id, Controller: "a"}))
		}
		_, err := tx.TakeDelivery(ctx, "key", noon)
		return errors.Join(append(errs, err,
			tx.SaveHost(ctx, firerunner.Host{Name: "a", Labels: []string{"zone=a", odd}, Slots: 3, Lost: true, SeenAt: noon}),
			tx.SaveProject(ctx, firerunner.Project{ID: 7, Path: "group/app", SeenAt: noon}),
			tx.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepDemand, ProjectID: 7, Tags: "a,b", NotBefore: noon.Add(100 * 365 * 24 * time.Hour).Truncate(time.Second)}))...)
	}))
	_, err := e.store.Installation(ctx, "0123456789ab")
	require.NoError(t, err)
	require.NoError(t, e.store.SaveVM(ctx, firerunner.LedgerVM{ID: "vm", Driver: "flintlock", Token: [32]byte{1, 0, 255}, CreatedAt: noon}))
	_, err = e.store.UseToken(ctx, "vm", [32]byte{9}, noon)
	require.NoError(t, err)
	for n := range 3 {
		_, err := e.store.AddReport(ctx, "vm", int64(n+1), firerunner.GuestReport{At: noon, Kind: firerunner.ReportNotice, ExitCode: -9, Message: odd})
		require.NoError(t, err)
	}
}

func export(t testing.TB, e engine) (text []byte, footer archive.Footer) {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, e.within(func(s archive.Site) (err error) {
		footer, err = archive.Write(t.Context(), &out, s, archive.Header{By: "test", At: noon}, nil)
		return err
	}))
	return out.Bytes(), footer
}

func load(t testing.TB, e engine, text []byte) error {
	t.Helper()
	return e.within(func(s archive.Site) error {
		_, err := archive.Load(t.Context(), bytes.NewReader(text), s, nil)
		return err
	})
}

// body is what must be the same wherever it is: all but the header, and the checksum that covers it. Steps that were due at
// once may say when.
func body(text []byte) []string {
	lines := strings.Split(string(text), "\n")
	return slices.DeleteFunc(lines[1:], func(line string) bool { return strings.Contains(line, `"sha256"`) })
}

// TestMove: from SQLite to PostgreSQL and back, to the last row and bit; and what is written afterwards goes on from there.
func TestMove(t *testing.T) {
	t.Parallel()
	first, second, third := onSQLite(t), onPostgres(t), onSQLite(t)
	fill(t, first)
	before, footer := export(t, first)
	require.Equal(t, map[string]int64{
		"site": 1, "projects": 1, "hosts": 1, "jobs": 300, "runners": 300, "events": 300, "deliveries": 1, "vms": 1, "vm_reports": 3, "steps": 301,
	}, footer.Rows)
	require.NoError(t, load(t, second, before))
	middle, _ := export(t, second)
	require.Equal(t, body(before), body(middle))
	require.NoError(t, load(t, third, middle))
	after, _ := export(t, third)
	require.Equal(t, body(before), body(after))
	for _, e := range []engine{first, second, third} {
		require.NoError(t, e.within(func(s archive.Site) error {
			found, err := archive.Inspect(t.Context(), s)
			for _, f := range found {
				require.Zero(t, f.Wrong, "%s: %s", s.Engine(), f.What)
			}
			return err
		}))
	}
	for _, e := range []engine{second, third} {
		require.NoError(t, e.store.Update(t.Context(), func(tx firerunner.Tx) error {
			return tx.AddEvent(t.Context(), firerunner.Event{Kind: firerunner.EventDaemon})
		}))
		events, err := e.store.Events(t.Context(), firerunner.EventQuery{})
		require.NoError(t, err)
		require.Len(t, events, 301)
		require.Equal(t, events[299].ID+1, events[300].ID)
		vm, err := e.store.VM(t.Context(), "vm")
		require.NoError(t, err)
		require.Equal(t, [32]byte{9}, vm.Session)
	}
}

// TestLoadErr: what is broken, newer, or would mix two sites is refused, and nothing of it stays.
func TestLoadErr(t *testing.T) {
	t.Parallel()
	full := onSQLite(t)
	fill(t, full)
	good, _ := export(t, full)
	header := func(change func(map[string]any)) []byte {
		first, rest, _ := bytes.Cut(good, []byte("\n"))
		var h map[string]any
		require.NoError(t, json.Unmarshal(first, &h))
		change(h)
		text, err := json.Marshal(h)
		require.NoError(t, err)
		return append(append(text, '\n'), rest...)
	}
	flipped := slices.Clone(good)
	flipped[bytes.Index(flipped, []byte("group/app"))] ^= 1
	for _, e := range []engine{onSQLite(t), onPostgres(t)} {
		for name, text := range map[string][]byte{
			"empty":         {},
			"another file":  []byte("{}\n"),
			"cut off":       good[:len(good)/2],
			"without end":   good[:bytes.LastIndex(good[:len(good)-1], []byte("\n"))+1],
			"one bit":       flipped,
			"more":          append(slices.Clone(good), "x\n"...),
			"newer format":  header(func(h map[string]any) { h["version"] = 2 }),
			"newer schema":  header(func(h map[string]any) { h["schema"] = 99 }),
			"another table": bytes.Replace(good, []byte(`{"table":"hosts"`), []byte(`{"table":"pg_authid"`), 1),
			"statement":     bytes.Replace(good, []byte(`"columns":["id"`), []byte(`"columns":["id); DROP TABLE jobs; --"`), 1),
		} {
			err := load(t, e, text)
			require.Error(t, err, name)
			require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err), "%s: %v", name, err)
		}
		require.NoError(t, load(t, e, good), "nothing had stayed")
		require.Equal(t, firerunner.Conflict, firerunner.CodeOf(load(t, e, good)))
	}
}

// TestWriteFile: only this user reads it, it replaces nothing, and what fails leaves nothing.
func TestWriteFile(t *testing.T) {
	t.Parallel()
	e := onSQLite(t)
	fill(t, e)
	dir := t.TempDir()
	path := filepath.Join(dir, "site.ndjson")
	write := func() error {
		return e.within(func(s archive.Site) error {
			_, err := archive.WriteFile(t.Context(), path, s, archive.Header{}, nil)
			return err
		})
	}
	require.NoError(t, write())
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	_, footer, err := archive.Check(f)
	require.NoError(t, err)
	require.Equal(t, int64(300), footer.Rows["runners"])
	require.Equal(t, firerunner.Conflict, firerunner.CodeOf(write()))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1)
}

// TestTables: no table is forgotten, and the engines have the same columns at the same version.
func TestTables(t *testing.T) {
	t.Parallel()
	lite, post := onSQLite(t), onPostgres(t)
	theirs := []string{"goose_", "river_", "sqlite_"}
	stay := []string{"leases.", "controllers."} // of processes that have ended
	list := func(e engine, statement string) (all []string) {
		require.NoError(t, e.within(func(s archive.Site) error {
			return s.Query(t.Context(), statement, func([]string) error { return nil }, func(values []any) error {
				name := values[0].(string)
				if !slices.ContainsFunc(theirs, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
					all = append(all, name)
				}
				return nil
			})
		}))
		return all
	}
	inSQLite := list(lite, `SELECT m.name || '.' || c.name FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table' ORDER BY m.name, c.cid`)
	inPostgres := list(post, `SELECT table_name::text || '.' || column_name::text FROM information_schema.columns WHERE table_schema = 'public'
		ORDER BY table_name COLLATE "C", ordinal_position`)
	require.Equal(t, inSQLite, inPostgres)
	text, _ := export(t, lite)
	var written []string
	_, _, err := archive.Read(bytes.NewReader(text), archive.Handle{
		Table: func(name string, columns []string) error {
			if name != "steps" {
				for _, c := range columns {
					written = append(written, name+"."+c)
				}
			}
			return nil
		},
		Row: func(string, []any) error { return nil },
	})
	require.NoError(t, err)
	inSQLite = slices.DeleteFunc(inSQLite, func(name string) bool {
		return slices.ContainsFunc(stay, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
	})
	require.ElementsMatch(t, inSQLite, written)
}

func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		"", "{}\n", `{"format":"firerunner-export","version":1,"schema":2}` + "\n" + `{"table":"hosts","columns":["name","n"]}` + "\n" + `["a",1]` + "\n" + `{"end":true}` + "\n",
		`{"format":"firerunner-export","version":1}` + "\n[1]\n", `{"format":"firerunner-export","version":1}` + "\n" + `{"table":"vms","columns":["b"]}` + "\n" + `[{"b64":"AQ=="}]` + "\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		columns := 0
		_, _, err := archive.Read(io.MultiReader(bytes.NewReader(text)), archive.Handle{
			Table: func(_ string, c []string) error { columns = len(c); return nil },
			Row: func(table string, values []any) error {
				require.Len(t, values, columns)
				for _, v := range values {
					require.Contains(t, []string{"int64", "string", "[]uint8"}, fmt.Sprintf("%T", v))
				}
				return nil
			},
		})
		if err != nil {
			require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err), "%v", err)
		}
	})
}
