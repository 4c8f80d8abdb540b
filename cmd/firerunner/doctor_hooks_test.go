package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/gitlab"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

func TestDoctorHooks(t *testing.T) {
	t.Parallel()
	p := newPatient(t, "api")
	project, err := p.gitlab.CreateProject("group/app", map[string]string{"README.md": "hello\n"})
	require.NoError(t, err)
	// Found is what is said of the webhooks in GitLab, after what is said of our port.
	found := func() []finding {
		_, found := p.examine()
		return found["webhook"][2:]
	}
	require.Contains(t, found()[0].Found, "gitlab.projects names no project")

	p.keys["gitlab.projects"] = "group/app"
	require.Equal(t, warn, found()[0].Verdict)
	require.Contains(t, found()[0].Found, "group/app: no webhook leads to FireRunner's /webhook")

	hook, err := p.gitlab.AddHook(project.ID, gitlabtest.Hook{URL: "http://firerunner.example.com/webhook", Token: "hush"})
	require.NoError(t, err)
	require.Equal(t, []finding{{"webhook", good, fmt.Sprintf("group/app: webhook %d leads here", hook.ID), ""}}, found())

	p.token = p.gitlab.CreateTokenWith(gitlabtest.TokenOptions{Scopes: []string{"api"}, Role: gitlabtest.Developer, Projects: []int64{project.ID}})
	require.Equal(t, warn, found()[0].Verdict)
	require.Contains(t, found()[0].Found, "may not list them")
}

func TestDoctorHooksOf(t *testing.T) {
	t.Parallel()
	const ours = "https://fr.example.com/ci/webhook"
	ok := gitlab.Hook{ID: 7, URL: ours, JobEvents: true, Token: true, Signed: true, AlertStatus: "executable"}
	for name, c := range map[string]struct {
		change  func(*gitlab.Hook)
		verdict verdict
		found   string
	}{
		"ok":       {func(*gitlab.Hook) {}, good, "leads here"},
		"port":     {func(h *gitlab.Hook) { h.URL = "https://fr.example.com:8443/ci/webhook" }, warn, "no webhook leads to " + ours},
		"path":     {func(h *gitlab.Hook) { h.URL = "https://fr.example.com/webhook" }, warn, "no webhook"},
		"nonsense": {func(h *gitlab.Hook) { h.URL = "%" }, warn, "no webhook"},
		"case":     {func(h *gitlab.Hook) { h.URL = "https://FR.example.com/ci/webhook" }, good, "leads here"},
		"no jobs":  {func(h *gitlab.Hook) { h.JobEvents = false }, fail, "without job events"},
		"off":      {func(h *gitlab.Hook) { h.AlertStatus = "disabled" }, fail, "switched off by GitLab"},
		"off for a while": {func(h *gitlab.Hook) {
			h.AlertStatus, h.DisabledUntil = "temporarily_disabled", time.Unix(0, 0)
		}, fail, "until 1970-01-01T00:00:00Z"},
		"template": {func(h *gitlab.Hook) { h.Template = true }, fail, "template"},
		"unsigned": {func(h *gitlab.Hook) { h.Signed = false }, warn, "not to sign"},
	} {
		cfg := config.Default()
		cfg.Server.PublicURL, cfg.GitLab.SigningToken = "https://fr.example.com/ci/", "whsec_x"
		e := examination{cfg: &cfg}
		hook := ok
		c.change(&hook)
		found := e.ours("g/app", []gitlab.Hook{{ID: 1, URL: "https://chat.example.com/hooks/1"}, hook})
		require.Len(t, found, 1, name)
		require.Equal(t, c.verdict, found[0].Verdict, name)
		require.Contains(t, found[0].Found, c.found, name)
		require.Equal(t, c.verdict == good, found[0].Remedy == "", name)
	}
	cfg := config.Default()
	cfg.GitLab.WebhookSecret = "x"
	hook := ok
	hook.Token = false
	found := (&examination{cfg: &cfg}).ours("g/app", []gitlab.Hook{hook})
	require.Equal(t, warn, found[0].Verdict)
	require.Contains(t, found[0].Found, "no secret token")
}
