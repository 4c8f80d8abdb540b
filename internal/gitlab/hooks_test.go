package gitlab

import (
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
