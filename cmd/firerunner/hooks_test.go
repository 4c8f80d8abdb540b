package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// ensuring is a GitLab with one project, and a FireRunner that answers its webhooks at an address.
type ensuring struct {
	*testing.T
	dir     string
	gitlab  *gitlabtest.Server
	project *gitlabtest.Project
	public  string // server.public_url
	answer  atomic.Int64
	token   string
	secrets string // keys below gitlab
}

func newEnsuring(t *testing.T, change func(*gitlabtest.Config)) *ensuring {
	t.Helper()
	cfg := gitlabtest.Config{Dir: t.TempDir(), AutoDisableHooks: true, HookResendsPerMinute: -1}
	if change != nil {
		change(&cfg)
	}
	e := &ensuring{T: t, dir: t.TempDir(), secrets: "webhook_secret: hush"}
	e.answer.Store(http.StatusOK)
	public := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(e.answer.Load())) }))
	t.Cleanup(public.Close)
	e.public = public.URL + "/ci"
	var err error
	e.gitlab, err = gitlabtest.Start(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.gitlab.Close()) })
	e.project, err = e.gitlab.CreateProject("group/app", map[string]string{"README.md": "hello\n"})
	require.NoError(t, err)
	e.token = e.gitlab.CreateToken("api")
	return e
}

// ensure runs the command and returns its exit status and what it says of the one project.
func (e *ensuring) ensure(args ...string) (status int, one ensured, stderr string) {
	e.Helper()
	file := filepath.Join(e.dir, "config.yaml")
	text := fmt.Sprintf("gitlab: {url: %q, token: %q, projects: [group/app], %s}\nserver: {public_url: %q}\ndriver: fake\nstate_dir: state\n", e.gitlab.URL(), e.token, e.secrets, e.public)
	require.NoError(e, os.WriteFile(file, []byte(text), 0o600))
	var out, errs bytes.Buffer
	status = Main{
		Args:    append([]string{"hooks", "ensure", "--json", "--config", file}, args...),
		Environ: []string{"HOME=" + e.dir, "PATH=" + os.Getenv("PATH")}, Stdout: &out, Stderr: &errs,
	}.Run(context.Background())
	require.NotContains(e, out.String()+errs.String(), "hush")
	require.NotContains(e, out.String()+errs.String(), e.token)
	var report struct {
		OK    bool      `json:"ok"`
		Hooks []ensured `json:"hooks"`
	}
	if out.Len() > 0 {
		require.NoError(e, json.Unmarshal(out.Bytes(), &report))
		require.Len(e, report.Hooks, 1)
		require.Equal(e, status == 0, report.OK)
		one = report.Hooks[0]
	}
	return status, one, errs.String()
}

func (e *ensuring) hook() gitlabtest.Hook {
	e.Helper()
	hooks := e.gitlab.Hooks(e.project.ID)
	require.Len(e, hooks, 1)
	return hooks[0]
}

func TestHooksEnsure(t *testing.T) {
	t.Parallel()
	e := newEnsuring(t, nil)
	status, one, _ := e.ensure("--dry-run")
	require.Equal(t, 4, status)
	require.Equal(t, "made", one.Action)
	require.Empty(t, e.gitlab.Hooks(e.project.ID))

	status, one, _ = e.ensure()
	require.Zero(t, status)
	require.Equal(t, "made", one.Action)
	h := e.hook()
	require.Equal(t, one.Hook, h.ID)
	require.Equal(t, e.public+"/webhook", h.URL)
	require.Equal(t, "hush", h.Token)
	require.True(t, h.JobEvents)
	require.False(t, h.PushEvents)

	for _, args := range [][]string{nil, {"--dry-run"}} {
		status, one, _ = e.ensure(args...)
		require.Zero(t, status)
		require.Equal(t, ensured{Project: "group/app", Hook: h.ID, Action: "ok"}, one, "twice is the same")
	}
	status, one, _ = e.ensure("--renew-secrets")
	require.Zero(t, status)
	require.Equal(t, []string{"secret token"}, one.Changes)

	// A text for people, and a second webhook that leads here.
	_, err := e.gitlab.AddHook(e.project.ID, gitlabtest.Hook{URL: e.public + "/webhook"})
	require.NoError(t, err)
	var out bytes.Buffer
	require.Zero(t, Main{Args: []string{"hooks", "ensure", "--config", filepath.Join(e.dir, "config.yaml")}, Stdout: &out, Stderr: &out}.Run(context.Background()))
	require.Contains(t, out.String(), "group/app  ok  note: 2 webhooks lead here")
}

func TestHooksEnsure_Repair(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hook    gitlabtest.Hook
		secrets string
		changes []string
	}{
		"address":  {gitlabtest.Hook{URL: "PUBLIC/webhook/", Token: "hush"}, "", nil}, // another path is another's
		"secret":   {gitlabtest.Hook{URL: "PUBLIC/webhook"}, "", []string{"secret token"}},
		"signing":  {gitlabtest.Hook{URL: "PUBLIC/webhook", Token: "hush"}, "signing_token: whsec_dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHRlc3Q=", []string{"signing token"}},
		"template": {gitlabtest.Hook{URL: "PUBLIC/webhook", Token: "hush", Template: `{"id":1}`}, "", []string{"template"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEnsuring(t, nil)
			if c.secrets != "" {
				e.secrets = c.secrets
			}
			c.hook.URL = strings.Replace(c.hook.URL, "PUBLIC", e.public, 1)
			made, err := e.gitlab.AddHook(e.project.ID, c.hook)
			require.NoError(t, err)
			if c.changes == nil {
				status, one, _ := e.ensure("--dry-run")
				require.Equal(t, 4, status)
				require.Equal(t, "made", one.Action)
				return
			}
			status, one, _ := e.ensure()
			require.Zero(t, status, one.Error)
			require.Equal(t, ensured{Project: "group/app", Hook: made.ID, Action: "repaired", Changes: c.changes}, one)
			status, one, _ = e.ensure()
			require.Zero(t, status)
			require.Equal(t, "ok", one.Action)
			require.Empty(t, e.hook().Template)
		})
	}
}

// TestHooksEnsure_Enable has GitLab switch a webhook off, because nobody answered it.
func TestHooksEnsure_Enable(t *testing.T) {
	t.Parallel()
	e := newEnsuring(t, nil)
	status, one, _ := e.ensure()
	require.Zero(t, status)
	require.Equal(t, "made", one.Action)
	e.answer.Store(http.StatusInternalServerError)
	_, err := e.gitlab.Push(e.project.ID, map[string]string{".gitlab-ci.yml": "many:\n  parallel: 6\n  script: ['true']\n"})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, e.gitlab.WaitHooks(ctx))
	require.False(t, e.hook().DisabledUntil.IsZero())

	status, one, _ = e.ensure("--dry-run")
	require.Equal(t, 4, status)
	require.Equal(t, "enabled", one.Action)
	status, one, _ = e.ensure()
	require.NotZero(t, status)
	require.Equal(t, "failed", one.Action)
	require.Contains(t, one.Remedy, "is firerunner serve running")
	e.answer.Store(http.StatusNoContent)
	status, one, _ = e.ensure()
	require.Zero(t, status, one.Error)
	require.Equal(t, []string{"switched on again"}, one.Changes)
	require.True(t, e.hook().DisabledUntil.IsZero())
}

func TestHooksEnsure_Err(t *testing.T) {
	t.Parallel()
	e := newEnsuring(t, func(c *gitlabtest.Config) { c.IgnoreSigningTokens = true })
	status, one, _ := e.ensure("group/nowhere")
	require.Equal(t, 3, status)
	require.Equal(t, "failed", one.Action)

	// An older GitLab ignores signing tokens in silence, and its webhook would be refused here.
	e.secrets = "signing_token: whsec_dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHRlc3Q="
	status, one, _ = e.ensure()
	require.Equal(t, 4, status)
	require.Contains(t, one.Error, "it signs from 19.0 on")

	// A token that is good for the daemon is not for this.
	e.secrets = "webhook_secret: hush"
	good := e.token
	e.token = e.gitlab.CreateToken("create_runner", "manage_runner", "read_api")
	status, one, _ = e.ensure()
	require.Equal(t, 5, status)
	require.Contains(t, one.Remedy, "--token-file")
	file := filepath.Join(e.dir, "api.token")
	require.NoError(t, os.WriteFile(file, []byte(good+"\n"), 0o644))
	status, _, stderr := e.ensure("--token-file", file)
	require.Equal(t, 2, status)
	require.Contains(t, stderr, "others can read")
	require.NoError(t, os.Chmod(file, 0o600))
	status, one, _ = e.ensure("--token-file", file)
	require.Zero(t, status, one.Error)

	for _, missing := range []string{"server.public_url=", "gitlab.projects=", "gitlab.url="} {
		status, _, stderr = e.ensure("--set", missing)
		require.Equal(t, 2, status, missing)
		require.NotEmpty(t, stderr)
	}
	status, _, _ = e.ensure("--token-file", filepath.Join(e.dir, "none"))
	require.Equal(t, 2, status)
}
