package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

// reaping is an installation without a daemon: a database, a state folder, and a GitLab.
type reaping struct {
	*testing.T
	dir    string
	gitlab *gitlabtest.Server
	mark   string
	one    *gitlabtest.Project
}

func newReaping(t *testing.T) *reaping {
	t.Helper()
	dir, err := os.MkdirTemp("", "fr-") // short: sockets are in it
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	r := &reaping{T: t, dir: dir}
	r.gitlab, err = gitlabtest.Start(gitlabtest.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.gitlab.Close()) })
	r.one, err = r.gitlab.CreateProject("group/app", map[string]string{"README.md": "hello\n"})
	require.NoError(t, err)
	id, err := installationID(dir)
	require.NoError(t, err)
	r.mark = "firerunner " + id + " "
	text := fmt.Sprintf("gitlab: {url: %q, token: %q, webhook_secret: hush}\nscheduler: {host_name: here}\nstate_dir: .\n", r.gitlab.URL(), r.gitlab.CreateToken("api"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(text), 0o600))
	r.store(func(context.Context, firerunner.Tx) error { return nil })
	return r
}

func (r *reaping) store(do func(ctx context.Context, tx firerunner.Tx) error) {
	r.Helper()
	store, err := sqlite.Open(r.Context(), sqlite.Config{Path: filepath.Join(r.dir, "firerunner.db"), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(r, err)
	require.NoError(r, store.Update(r.Context(), func(tx firerunner.Tx) error { return do(r.Context(), tx) }))
	require.NoError(r, store.Close())
}

// runner is a live one without anything.
func (r *reaping) runner(id string, state firerunner.State, moved time.Time) {
	r.store(func(ctx context.Context, tx firerunner.Tx) error {
		row := firerunner.NewRunner(id, firerunner.Demand{ProjectID: r.one.ID, Tags: "x"}, moved)
		row.State, row.Host = state, "here"
		return tx.CreateRunner(ctx, row)
	})
}

func (r *reaping) inGitLab(description string) int64 {
	return r.gitlab.CreateRunner(gitlabtest.Runner{Type: "project_type", ProjectIDs: []int64{r.one.ID}, Description: description, Tags: []string{"x"}}).ID
}

func (r *reaping) folder(id string) string {
	r.Helper()
	dir := filepath.Join(r.dir, "vms", id)
	require.NoError(r, os.MkdirAll(dir, 0o711))
	return dir
}

func (r *reaping) run(args ...string) (status int, stdout, stderr string) {
	r.Helper()
	var out, errs bytes.Buffer
	status = Main{
		Args:    append([]string{"reap", "--config", filepath.Join(r.dir, "config.yaml")}, args...),
		Environ: []string{"HOME=" + r.dir, "PATH=" + os.Getenv("PATH")}, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
	}.Run(r.Context())
	return status, out.String(), errs.String()
}

func TestReapCommandOK(t *testing.T) {
	t.Parallel()
	r := newReaping(t)
	long := time.Now().Add(-time.Hour)
	r.runner("owned", firerunner.Creating, long)
	r.runner("bereft", firerunner.Running, long)
	r.runner("fresh", firerunner.Booting, time.Now())
	owned, stray := r.folder("owned"), r.folder("stray")
	foreign := filepath.Join(r.dir, "vms", "Not-Ours")
	require.NoError(t, os.Mkdir(foreign, 0o700))
	r.inGitLab(r.mark + "owned")
	strayID := r.inGitLab(r.mark + "stray")
	r.inGitLab("firerunner 000000000000 stray")
	r.inGitLab("somebody's")

	status, out, errs := r.run("--dry-run")
	require.Equal(t, 4, status, errs)
	require.Empty(t, errs)
	require.Regexp(t, `(?m)^KIND +ID +HOST +AGE +ACTION +WHY$`, out)
	require.Regexp(t, `(?m)^microvm +stray +here +unknown +would be removed +no live runner has it; it has ended, and something of it is left$`, out)
	require.Regexp(t, `(?m)^runner +bereft +here +1h0m\ds +would be removed +it is running and its microVM is not there$`, out)
	require.Regexp(t, fmt.Sprintf(`(?m)^gitlab_runner +%d \(stray\) +- +unknown +would be removed +no live runner here has it$`, strayID), out)
	require.Len(t, strings.Split(strings.TrimSpace(out), "\n"), 4, out)
	require.DirExists(t, stray)
	require.Len(t, r.gitlab.Runners(), 4)

	status, out, errs = r.run("--json")
	require.Equal(t, 0, status, errs)
	var report struct {
		OK     bool     `json:"ok"`
		DryRun bool     `json:"dry_run"`
		Found  []reaped `json:"found"`
	}
	require.NoError(t, json.Unmarshal([]byte(out), &report))
	require.True(t, report.OK)
	require.Len(t, report.Found, 3)
	for _, f := range report.Found {
		require.Equal(t, "removed", f.Action)
	}
	require.NoDirExists(t, stray)
	require.DirExists(t, owned)
	require.DirExists(t, foreign)
	require.Len(t, r.gitlab.Runners(), 3)
	r.store(func(ctx context.Context, tx firerunner.Tx) error {
		row, err := tx.Runner(ctx, "bereft")
		require.NoError(t, err)
		require.Equal(t, firerunner.Stopping, row.State)
		require.Equal(t, firerunner.Lost, row.Outcome)
		row, err = tx.Runner(ctx, "fresh")
		require.Equal(t, firerunner.Booting, row.State, "a daemon may be making it")
		return err
	})

	status, out, errs = r.run()
	require.Equal(t, 0, status, errs)
	require.Equal(t, "nothing to remove: everything belongs to a runner\n", out)
}

// What cannot be looked at is said, by the exit status too; the rest is done.
func TestReapCommandErrGitLab(t *testing.T) {
	t.Parallel()
	r := newReaping(t)
	stray := r.folder("stray")
	_, err := r.gitlab.AddFault(gitlabtest.Fault{Action: gitlabtest.FaultStatus, Status: http.StatusServiceUnavailable})
	require.NoError(t, err)
	status, out, errs := r.run()
	require.Equal(t, 6, status)
	require.Contains(t, out, "stray")
	require.Contains(t, errs, "not everything could be looked at, or removed")
	require.NoDirExists(t, stray)

	require.NoError(t, os.Remove(filepath.Join(r.dir, "installation")))
	status, _, errs = r.run()
	require.Equal(t, 3, status)
	require.Contains(t, errs, "there is no installation")
	require.NoFileExists(t, filepath.Join(r.dir, "installation"), "and none is made")
}
