package telemetry

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSweepOK(t *testing.T) {
	t.Parallel()
	m := New(Config{})
	state := SweepState{Active: 3, Idle: 40, PerMinute: 12.5, Requests: 7, Trouble: 1}
	m.Sweep(func() SweepState { return state })
	scrape := func() string {
		answer := httptest.NewRecorder()
		m.Serve().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		return answer.Body.String()
	}
	text := scrape()
	for _, line := range []string{
		`firerunner_sweep_projects{kind="active"} 3`, `firerunner_sweep_projects{kind="idle"} 40`,
		`firerunner_sweep_requests_per_minute 12.5`, `firerunner_sweep_requests_total 7`, `firerunner_webhooks_in_trouble 1`,
	} {
		require.Contains(t, text, "\n"+line+"\n")
	}
	state.Requests = 8
	require.Contains(t, scrape(), "\nfirerunner_sweep_requests_total 8\n")
}
