package telemetry_test

import (
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/telemetry"
)

func TestController(t *testing.T) {
	t.Parallel()
	m := telemetry.New(telemetry.Config{})
	scrape := func() string {
		answer := httptest.NewRecorder()
		m.Serve().ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
		return answer.Body.String()
	}
	require.NotContains(t, scrape(), "firerunner_leader", "where there are no others")
	leads, standing := true, 2
	m.Controller(func() bool { return leads }, func() int { return standing })
	m.LateWrite()
	m.LeaseRenewal("ok")
	m.LeaseRenewal("lost")
	text := scrape()
	require.Contains(t, text, "firerunner_leader 1\n")
	require.Contains(t, text, "firerunner_standing_in 2\n")
	require.Contains(t, text, "firerunner_late_writes_refused_total 1\n")
	for result, count := range map[string]string{"ok": "1", "failed": "0", "lost": "1"} {
		require.Contains(t, text, `firerunner_lease_renewals_total{result="`+result+`"} `+count+"\n")
	}
	leads, standing = false, 0
	require.Contains(t, scrape(), "firerunner_leader 0\n")
	require.Contains(t, scrape(), "firerunner_standing_in 0\n")
}
