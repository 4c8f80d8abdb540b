package telemetry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/firerunner/firerunner"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// some is a source of runners, or of an error.
type some struct {
	runners []firerunner.Runner
	err     error
	query   firerunner.RunnerQuery
}

func (s *some) Runners(ctx context.Context, q firerunner.RunnerQuery) ([]firerunner.Runner, error) {
	s.query = q
	if _, limited := ctx.Deadline(); !limited {
		return nil, errors.New("a scrape without a deadline")
	}
	return s.runners, s.err
}

// The names are an interface: dashboards and alerts are made of them.
func TestMetrics_Names(t *testing.T) {
	t.Parallel()
	m := New(Config{Version: "1.2.3", Source: &some{}, WebhookResults: []string{"queued"}})
	m.GitLabRequest("job", 200, time.Second)
	families, err := m.registry.Gather()
	require.NoError(t, err)
	var names []string
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "firerunner_") {
			labels := []string{}
			for _, l := range f.GetMetric()[0].GetLabel() {
				labels = append(labels, l.GetName())
			}
			names = append(names, f.GetName()+"{"+strings.Join(labels, ",")+"} "+strings.ToLower(f.GetType().String()))
			require.Greater(t, len(f.GetHelp()), 40, "%s: a help text says what to do with it", f.GetName())
		}
	}
	slices.Sort(names)
	require.Equal(t, []string{
		"firerunner_build_info{go,version} gauge",
		"firerunner_gitlab_request_seconds{op} histogram",
		"firerunner_gitlab_requests_total{code,op} counter",
		"firerunner_jobs_total{status} counter",
		"firerunner_overdue_total{state} counter",
		"firerunner_phase_seconds{phase} histogram",
		"firerunner_queue_size{} gauge",
		"firerunner_reaped_total{} counter",
		"firerunner_runners_total{outcome} counter",
		"firerunner_runners{state} gauge",
		"firerunner_store_up{} gauge",
		"firerunner_vms_active{} gauge",
		"firerunner_webhook_seconds{} histogram",
		"firerunner_webhooks_total{result} counter",
	}, names)
}

func TestMetrics_Lint(t *testing.T) {
	t.Parallel()
	m := New(Config{Version: "1.2.3", Source: &some{}, WebhookResults: []string{"queued"}})
	m.GitLabRequest("job", 200, time.Second)
	problems, err := testutil.GatherAndLint(m.registry)
	require.NoError(t, err)
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "firerunner_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestRecord_Counts(t *testing.T) {
	t.Parallel()
	m := New(Config{})
	now := time.Unix(1744578123, 0)
	r := firerunner.NewRunner("0123456789abcdef", firerunner.Demand{ProjectID: 1, Tags: "a"}, now)
	r.Host = "h"
	moved, err := r.Move(firerunner.Placed, firerunner.OwnerPlacement, firerunner.Deadlines{}, now.Add(3*time.Second), "")
	require.NoError(t, err)
	ended, ok := r.End(firerunner.Rejected, firerunner.ReasonNoDemand, "control", "nobody wants it: really", now)
	require.True(t, ok)
	m.Record([]firerunner.Event{
		moved, ended,
		{Kind: firerunner.EventOverdue, From: firerunner.Booting},
		{Kind: firerunner.EventJobSeen, Message: "pending"},
		{Kind: firerunner.EventJobSeen, Message: "success"},
		{Kind: firerunner.EventJobSeen, Message: "a status of a hostile GitLab 1"},
		{Kind: firerunner.EventJobSeen, Message: "a status of a hostile GitLab 2"},
		{Kind: firerunner.EventUnwanted, Message: "an outcome that is none"},
		{Kind: firerunner.EventJobRefused, Message: "too large"},
		{Kind: firerunner.EventReaped},
		{Kind: firerunner.EventNotice, Message: "not counted"},
		{Kind: firerunner.EventDaemon},
	})
	require.InDelta(t, 1, testutil.ToFloat64(m.jobs.WithLabelValues("pending")), 0)
	require.InDelta(t, 1, testutil.ToFloat64(m.jobs.WithLabelValues("success")), 0)
	require.InDelta(t, 1, testutil.ToFloat64(m.jobs.WithLabelValues("refused")), 0)
	require.InDelta(t, 2, testutil.ToFloat64(m.jobs.WithLabelValues("other")), 0)
	require.InDelta(t, 1, testutil.ToFloat64(m.runners.WithLabelValues("rejected")), 0)
	require.InDelta(t, 1, testutil.ToFloat64(m.runners.WithLabelValues("other")), 0)
	require.InDelta(t, 1, testutil.ToFloat64(m.overdue.WithLabelValues("booting")), 0)
	require.InDelta(t, 1, testutil.ToFloat64(m.reaped), 0)
	text := scrape(t, m)
	require.Contains(t, text, `firerunner_phase_seconds_sum{phase="queued"} 3`)
	require.Contains(t, text, `firerunner_phase_seconds_count{phase="queued"} 1`)
	require.Contains(t, text, `firerunner_phase_seconds_count{phase="stopping"} 0`, "all phases are there from the start")
	require.Contains(t, text, `firerunner_jobs_total{status="failed"} 0`)
	require.NotContains(t, text, "0123456789abcdef", "no ids")
	require.NotContains(t, text, "hostile")
}

func TestCalls_Counted(t *testing.T) {
	t.Parallel()
	m := New(Config{WebhookResults: []string{"queued", "shed"}})
	m.Webhook("queued", 3*time.Millisecond)
	m.GitLabRequest("job", 0, time.Second)
	m.GitLabRequest("job", 200, 30*time.Millisecond)
	text := scrape(t, m)
	require.Contains(t, text, `firerunner_webhooks_total{result="queued"} 1`)
	require.Contains(t, text, `firerunner_webhooks_total{result="shed"} 0`)
	require.Contains(t, text, `firerunner_webhook_seconds_bucket{le="0.005"} 1`)
	require.Contains(t, text, `firerunner_gitlab_requests_total{code="0",op="job"} 1`)
	require.Contains(t, text, `firerunner_gitlab_request_seconds_count{op="job"} 2`)
}

func TestGauges_OK(t *testing.T) {
	t.Parallel()
	in := func(s firerunner.State, host string) firerunner.Runner {
		return firerunner.Runner{State: s, Host: host}
	}
	source := &some{runners: []firerunner.Runner{
		in(firerunner.Queued, ""), in(firerunner.Queued, ""), in(firerunner.Placed, "h"), in(firerunner.Creating, "h"),
		in(firerunner.Running, "h"), in(firerunner.Running, "h"), in(firerunner.Stopping, "h"), in(firerunner.Stopping, ""),
	}}
	m := New(Config{Version: "1.2.3", Source: source})
	text := scrape(t, m)
	require.Contains(t, text, "\nfirerunner_vms_active 4\n")
	require.Contains(t, text, "\nfirerunner_queue_size 2\n")
	require.Contains(t, text, "firerunner_runners{state=\"stopping\"} 2\n")
	require.Contains(t, text, "firerunner_runners{state=\"ready\"} 0\n")
	require.Contains(t, text, "firerunner_store_up 1\n")
	require.Contains(t, text, `version="1.2.3"`)
	require.Contains(t, text, "process_open_fds")
	require.Contains(t, text, "go_goroutines")
	require.Equal(t, firerunner.RunnerQuery{Live: true}, source.query)
}

// A store that does not answer costs the gauges, not the scrape.
func TestGauges_ErrStore(t *testing.T) {
	t.Parallel()
	m := New(Config{Source: &some{err: errors.New("locked")}})
	text := scrape(t, m)
	require.Contains(t, text, "firerunner_store_up 0\n")
	require.NotContains(t, text, "firerunner_vms_active 0", "unknown is not zero")
	require.Contains(t, text, "firerunner_build_info")
}

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Serve().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Equal(t, 200, w.Code)
	text, err := io.ReadAll(w.Body)
	require.NoError(t, err)
	return string(text)
}
