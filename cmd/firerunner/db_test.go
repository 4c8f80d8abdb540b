package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/internal/store/postgrestest"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

// site is one site of a test: a configuration, and the commands and daemons that use it.
type site struct {
	testing.TB
	environ []string
	dir     string
}

// on is the site with its database elsewhere.
func (s site) on(database string) site {
	s.environ = append(append([]string{}, s.environ...), "FIRERUNNER_DATABASE="+database)
	return s
}

// run runs a command and wants an exit status.
func (s site) run(status int, args ...string) (stdout, stderr string) {
	s.Helper()
	var out, errs bytes.Buffer
	got := Main{Args: args, Environ: s.environ, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs}.Run(context.Background())
	require.Equal(s, status, got, "%v\n%s%s", args, &out, &errs)
	return out.String(), errs.String()
}

// newestTables is what is said of the tables that this program makes.
func newestTables(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "newest.db")
	store, err := sqlite.Open(t.Context(), sqlite.Config{Path: path, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, store.Close())
	seen, err := sqlite.Inspect(t.Context(), path)
	require.NoError(t, err)
	require.NotZero(t, seen.Newest)
	return fmt.Sprint("version ", seen.Newest)
}

// daemon opens a daemon.
func (s site) daemon(ctx context.Context) *daemon {
	s.Helper()
	cfg, err := (&app{Main: Main{Environ: s.environ}}).load(false)
	require.NoError(s, err)
	d, err := openDaemon(ctx, daemonConfig{Config: cfg, Logger: slog.New(slog.DiscardHandler), Environ: s.environ})
	require.NoError(s, err)
	return d
}

// TestDBMove: a daemon on SQLite takes webhooks and dies before it has done anything about them. The site moves to
// PostgreSQL, where a daemon runs every job, once; it moves back, and nothing is lost.
func TestDBMove(t *testing.T) {
	t.Parallel()
	gitlab, err := gitlabtest.Start(gitlabtest.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, gitlab.Close()) })
	project, err := gitlab.CreateProject("group/app", map[string]string{"README.md": "hello\n"})
	require.NoError(t, err)
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `
state_dir: state
driver: fake
server: {host: 127.0.0.1, port: 0, metrics_host: 127.0.0.1, metrics_port: 0}
gitlab: {url: %q, token: %q, webhook_secret: hush}
scheduler: {worker_count: 3}
sweep: {interval: 24h}
`, gitlab.URL(), gitlab.CreateToken("api", "create_runner")), 0o600))
	lite := site{TB: t, dir: dir, environ: []string{"HOME=" + dir, "FIRERUNNER_CONFIG=" + file}}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	first := lite.daemon(ctx)
	first.webhooks.start(first.failed) // and nothing else
	hook, err := gitlab.AddHook(project.ID, gitlabtest.Hook{URL: first.webhookURL(), Token: "hush", JobEvents: true})
	require.NoError(t, err)
	var ci strings.Builder
	const jobs = 6
	for i := range jobs {
		fmt.Fprintf(&ci, "job%d:\n  tags: [firecracker-1cpu-1gb]\n  script: [\"true\"]\n", i)
	}
	pipeline, err := gitlab.Push(project.ID, map[string]string{".gitlab-ci.yml": ci.String()})
	require.NoError(t, err)
	require.NoError(t, gitlab.WaitHooks(ctx))
	require.GreaterOrEqual(t, len(gitlab.Deliveries(hook.ID)), jobs)

	export := filepath.Join(dir, "site.ndjson")
	_, said := lite.run(4, "db", "export", export) // a daemon serves it
	require.Contains(t, said, "serves")
	first.close()
	require.NoFileExists(t, export)
	out, _ := lite.run(0, "db", "export", export, "--json")
	var exported struct {
		Rows map[string]int64 `json:"rows"`
	}
	require.NoError(t, json.Unmarshal([]byte(out), &exported))
	require.GreaterOrEqual(t, exported.Rows["deliveries"], int64(jobs))
	require.Equal(t, int64(jobs), exported.Rows["steps"], "all that is known of the jobs is that they are to be read")

	post := lite.on(postgrestest.New(t))
	post.run(3, "db", "check")
	post.run(3, "hosts", "list")
	post.run(0, "db", "migrate")
	post.run(0, "db", "import", export)
	_, said = post.run(4, "db", "import", export)
	require.Contains(t, said, "not empty")
	out, _ = post.run(0, "db", "check", "--json")
	var checked struct {
		OK     bool             `json:"ok"`
		Engine string           `json:"engine"`
		Rows   map[string]int64 `json:"rows"`
	}
	require.NoError(t, json.Unmarshal([]byte(out), &checked))
	require.True(t, checked.OK)
	require.Equal(t, "postgres", checked.Engine)
	require.Equal(t, exported.Rows, checked.Rows)

	second := post.daemon(ctx)
	require.NoError(t, second.start(ctx))
	for _, id := range pipeline.JobIDs {
		job, err := gitlab.WaitJob(ctx, id, gitlabtest.StatusSuccess, gitlabtest.StatusFailed)
		require.NoError(t, err)
		require.Equal(t, gitlabtest.StatusSuccess, job.Status)
		require.Len(t, job.Handouts, 1)
	}
	post.run(0, "hosts", "list")
	post.run(0, "db", "check")
	_, said = post.run(4, "db", "export", filepath.Join(dir, "not.ndjson"))
	require.Contains(t, said, "firerunner at this machine")
	require.Zero(t, second.control.Shutdown(ctx, ctx, time.Minute, time.Minute))
	second.close()

	back := filepath.Join(dir, "back.ndjson")
	post.run(0, "db", "export", back)
	home := lite.on("sqlite://" + filepath.Join(dir, "new.db"))
	home.run(0, "db", "import", back)
	home.run(0, "db", "check")
	again := filepath.Join(dir, "again.ndjson")
	home.run(0, "db", "export", again)
	require.Equal(t, rowsOf(t, back), rowsOf(t, again))
	require.Len(t, strings.Split(rowsOf(t, again), "\"succeeded\""), jobs+1)
}

// rowsOf is a file without its first line and its last, which say where and when it was written; steps that are due say
// when they became so.
func rowsOf(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(text), "\n")
	rest, _, found := strings.Cut(rest, `{"table":"steps"`)
	require.True(t, found)
	return rest
}

// TestDoctorDatabase: it says what is there, and what is wrong, and makes nothing.
func TestDoctorDatabase(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := site{TB: t, dir: dir, environ: []string{"HOME=" + dir, "FIRERUNNER_STATE_DIR=" + filepath.Join(dir, "state")}}
	look := func(s site) finding {
		cfg, err := (&app{Main: Main{Environ: s.environ}}).load(true)
		require.NoError(t, err)
		found := (&examination{cfg: cfg}).database(t.Context())
		require.Len(t, found, 1)
		return found[0]
	}
	require.Equal(t, good, look(s).Verdict)
	require.NoDirExists(t, filepath.Join(dir, "state"))
	s.run(0, "db", "migrate")
	require.Contains(t, look(s).Found, newestTables(t))

	url := postgrestest.New(t)
	post := s.on(url)
	require.Contains(t, look(post).Found, "no tables yet")
	post.run(0, "db", "migrate")
	f := look(post)
	require.Equal(t, good, f.Verdict)
	require.Regexp(t, `^PostgreSQL \d+.*tables of `+newestTables(t)+`$`, f.Found)
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	var newest int
	_, err = fmt.Sscanf(newestTables(t), "version %d", &newest)
	require.NoError(t, err)
	for version, want := range map[int]verdict{newest - 1: warn, newest + 1: warn, newest + 2: fail} {
		_, err = conn.Exec(t.Context(), `DELETE FROM goose_db_version WHERE version_id > 2`)
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES ($1, true)`, version)
		require.NoError(t, err)
		f = look(post)
		require.Equal(t, want, f.Verdict, "%d: %s", version, f.Found)
		require.NotEmpty(t, f.Remedy)
	}
	f = look(s.on(postgrestest.Loopback(t, url, "wrong")))
	require.Equal(t, fail, f.Verdict)
	require.Contains(t, f.Remedy, "password")
}

// TestDBErr: what cannot be had says why, with an exit status of its own, and never the password.
func TestDBErr(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := site{TB: t, dir: dir, environ: []string{"HOME=" + dir, "FIRERUNNER_STATE_DIR=" + filepath.Join(dir, "state")}}
	url := postgrestest.New(t)
	const password = "hunter2-not-this-one"
	for name, test := range map[string]struct {
		database string
		status   int
		args     []string
	}{
		"no SQLite file":    {"", 3, []string{"db", "check"}},
		"nothing to export": {"", 3, []string{"db", "export", filepath.Join(dir, "x")}},
		"no file to import": {"", 3, []string{"db", "import", filepath.Join(dir, "x")}},
		"wrong password":    {postgrestest.Loopback(t, url, password), 5, []string{"db", "migrate"}},
		"nobody listens":    {"postgres://u:" + password + "@127.0.0.1:1/d", 6, []string{"db", "check"}},
		"no such database":  {strings.Replace(url, "/test", "/missing", 1), 3, []string{"db", "migrate"}},
		"another scheme":    {"mysql://u:" + password + "@h/d", 2, []string{"db", "check"}},
	} {
		at := s
		if test.database != "" {
			at = s.on(test.database)
		}
		out, said := at.run(test.status, append(test.args, "--json")...)
		require.NotContains(t, out+said, password, name)
		require.Contains(t, said, `"hint"`, name)
	}
	broken := filepath.Join(dir, "broken")
	require.NoError(t, os.WriteFile(broken, []byte("{}\n"), 0o600))
	s.run(2, "db", "import", broken)
	require.NoDirExists(t, filepath.Join(dir, "state"), "nothing was made for it")
	s.run(0, "db", "migrate")
	out, _ := s.run(0, "db", "check")
	require.Contains(t, out, newestTables(t))
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(func() error {
		_, err := (&app{Main: Main{Environ: s.on("postgres://").environ}}).load(true)
		return err
	}()))
}
