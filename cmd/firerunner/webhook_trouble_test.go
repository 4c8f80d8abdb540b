package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
)

func TestWebhookTrouble(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	cfg.Server.PublicURL = "https://firerunner.example.com/ci"
	cfg.GitLab.WebhookSecret = "hush"
	good := firerunner.Webhook{ID: 1, URL: "https://firerunner.example.com/ci/webhook", JobEvents: true, AlertStatus: "executable", Token: true}
	with := func(change func(*firerunner.Webhook)) firerunner.Webhook {
		h := good
		change(&h)
		return h
	}
	off := with(func(h *firerunner.Webhook) { h.ID, h.AlertStatus = 2, "disabled" })
	for name, c := range map[string]struct {
		all  []firerunner.Webhook
		word firerunner.Reason
		says string
	}{
		"OK":        {[]firerunner.Webhook{good}, "", ""},
		"OneOfTwo":  {[]firerunner.Webhook{off, good}, "", ""},
		"None":      {nil, "missing", "https://firerunner.example.com/ci/webhook"},
		"Elsewhere": {[]firerunner.Webhook{with(func(h *firerunner.Webhook) { h.URL = "https://other.example.com/webhook" })}, "missing", "no webhook"},
		"NoEvents":  {[]firerunner.Webhook{with(func(h *firerunner.Webhook) { h.JobEvents = false })}, "no_job_events", "webhook 1 leads here, but without job events"},
		"Disabled":  {[]firerunner.Webhook{off}, "disabled", "webhook 2 was switched off by GitLab"},
		"ForNow": {
			[]firerunner.Webhook{with(func(h *firerunner.Webhook) {
				h.AlertStatus, h.DisabledUntil = "temporarily_disabled", time.Unix(1_800_000_000, 0)
			})},
			"temporarily_disabled", "until 2027-01-15T08:00:00Z",
		},
		"Seems": {[]firerunner.Webhook{with(func(h *firerunner.Webhook) { h.Token = false })}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := webhookTrouble(&cfg)(c.all)
			require.Equal(t, c.word, got.Word)
			require.Contains(t, got.What, c.says)
			require.Equal(t, c.word == "", got.Remedy == "")
		})
	}
}
