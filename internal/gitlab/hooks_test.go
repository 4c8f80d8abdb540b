package gitlab

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

func TestHooks_Emulator_OK(t *testing.T) {
	t.Parallel()
	srv, project, _ := emulator(t)
	made, err := srv.AddHook(project.ID, gitlabtest.Hook{URL: "http://fr.example.com:8080/webhook", Token: "hush"})
	require.NoError(t, err)
	_, err = srv.AddHook(project.ID, gitlabtest.Hook{URL: "http://other.example.com/"})
	require.NoError(t, err)
	c := newClient(t, srv.URL(), func(cfg *Config) {
		cfg.Token, cfg.PageSize = StaticToken(firerunner.Secret(srv.CreateToken("read_api"))), 1
	})
	for _, name := range []string{"1", "group/app"} {
		hooks, err := c.Hooks(t.Context(), name)
		require.NoError(t, err)
		require.Len(t, hooks, 2)
		require.Contains(t, hooks, Hook{ID: made.ID, URL: made.URL, JobEvents: true, Token: true, AlertStatus: "executable"})
	}
	_, err = c.Hooks(t.Context(), "group/nowhere")
	require.Equal(t, firerunner.NotFound, firerunner.CodeOf(err))
}

func TestHooks_Disabled(t *testing.T) {
	t.Parallel()
	s := newServer(t, text(200, `[null,{"id":5,"url":"http://x/webhook","job_events":true,"alert_status":"temporarily_disabled",
		"disabled_until":"2026-11-23T08:25:24.000Z","signing_token_present":true,"custom_webhook_template":"{}"}]`))
	hooks, err := newClient(t, s.URL).Hooks(t.Context(), "1")
	require.NoError(t, err)
	require.Equal(t, []Hook{{
		ID: 5, URL: "http://x/webhook", JobEvents: true, Signed: true, Template: true, AlertStatus: "temporarily_disabled",
		DisabledUntil: time.Date(2026, 11, 23, 8, 25, 24, 0, time.UTC),
	}}, hooks)
}

func TestHooksEdit_Emulator_OK(t *testing.T) {
	t.Parallel()
	srv, project, _ := emulator(t)
	got := make(chan struct{}, 16)
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got <- struct{}{} }))
	t.Cleanup(receiver.Close)
	c := newClient(t, srv.URL(), func(cfg *Config) { cfg.Token = StaticToken(firerunner.Secret(srv.CreateToken("api"))) })
	const signing = "whsec_dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHRlc3Q="
	made, err := c.CreateHook(t.Context(), "group/app", HookSettings{URL: "http://old.example.com/webhook", Token: "hush"})
	require.NoError(t, err)
	require.Equal(t, Hook{ID: made.ID, URL: "http://old.example.com/webhook", JobEvents: true, Token: true, AlertStatus: "executable"}, made)
	require.False(t, srv.Hooks(project.ID)[0].PushEvents)
	changed, err := c.UpdateHook(t.Context(), "group/app", made.ID, HookSettings{URL: receiver.URL, Token: "hush", SigningToken: signing})
	require.NoError(t, err)
	require.Equal(t, Hook{ID: made.ID, URL: receiver.URL, JobEvents: true, Token: true, Signed: true, AlertStatus: "executable"}, changed)
	require.Equal(t, "hush", srv.Hooks(project.ID)[0].Token)
	require.NoError(t, c.TestHook(t.Context(), "group/app", made.ID))
	<-got

	_, err = c.UpdateHook(t.Context(), "group/app", 999999, HookSettings{URL: receiver.URL})
	require.Equal(t, firerunner.NotFound, firerunner.CodeOf(err))
	_, err = c.CreateHook(t.Context(), "group/app", HookSettings{URL: "ftp://x"})
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
	weak := newClient(t, srv.URL(), func(cfg *Config) { cfg.Token = StaticToken(firerunner.Secret(srv.CreateToken("read_api"))) })
	_, err = weak.CreateHook(t.Context(), "group/app", HookSettings{URL: receiver.URL})
	require.Equal(t, firerunner.Unauthorized, firerunner.CodeOf(err))
	require.NotContains(t, err.Error(), "hush")
	require.Len(t, srv.Hooks(project.ID), 1)
}

func TestHooksEdit_ErrAnswer(t *testing.T) {
	t.Parallel()
	s := newServer(t, text(201, `{"id":0}`))
	_, err := newClient(t, s.URL).CreateHook(t.Context(), "1", HookSettings{URL: "http://x"})
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
	require.ErrorContains(t, err, "not a webhook")
}
