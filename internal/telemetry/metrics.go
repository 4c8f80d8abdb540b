// Package telemetry shows what FireRunner does: metrics for Prometheus, health for load balancers and systemd, and
// the log. No metric has an id as a label; ids are in events and logs, where they cost nothing.
package telemetry

import (
	"context"
	"log/slog"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/firerunner/firerunner"
)

// Source is what gauges are read from at each scrape. Every firerunner.Store is one.
type Source interface {
	Runners(ctx context.Context, q firerunner.RunnerQuery) ([]firerunner.Runner, error)
}

// Config is what Metrics need. All fields may be empty.
type Config struct {
	Version string // of FireRunner
	Source  Source // nil: there are no gauges
	// WebhookResults and GitLabCalls are labels that exist from the start, so that a rate is right from the first event.
	WebhookResults []string
	Timeout        time.Duration // longest that reading the gauges may take; 2 s
	Logger         *slog.Logger  // nil: nothing is logged
}

// Metrics holds every metric of one daemon, in a registry of its own. Its methods may be called from several
// goroutines.
type Metrics struct {
	registry *prometheus.Registry

	phases   *prometheus.HistogramVec
	jobs     *prometheus.CounterVec
	runners  *prometheus.CounterVec
	overdue  *prometheus.CounterVec
	reaped   prometheus.Counter
	webhooks *prometheus.CounterVec
	acks     prometheus.Histogram
	calls    *prometheus.CounterVec
	callTime *prometheus.HistogramVec
	late     prometheus.Counter
	renewals *prometheus.CounterVec
}

// other is the label for a word that is not known here; it keeps the number of series bounded whatever others say.
const other = "other"

// phaseBuckets reach from a step of the queue (5 ms) over a boot (0.1 to 10 s) to a long job (2 h).
func phaseBuckets() []float64 {
	return []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200}
}

// New makes the metrics. Counters whose labels are known are there from the start, with zero.
func New(cfg Config) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "firerunner_phase_seconds", Buckets: phaseBuckets(),
			Help: "How long runners stayed in each phase of their life. queued to ready is what a job waits for " +
				"FireRunner; running is the job itself; stopping is the clean-up. A slow phase names the part to look at.",
		}, []string{"phase"}),
		jobs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firerunner_jobs_total",
			Help: "GitLab jobs by what was seen of them. pending minus success, failed and canceled is what is under " +
				"way; refused jobs asked for something beyond the limits: firerunner why JOB says what.",
		}, []string{"status"}),
		runners: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firerunner_runners_total",
			Help: "Runners (one microVM each) by how their life ended. rejected ended before a job started, so the job " +
				"gets another one; lost means that a microVM vanished and should never rise.",
		}, []string{"outcome"}),
		overdue: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firerunner_overdue_total",
			Help: "Runners that stayed in a state beyond its deadline. Any rise is worth a look at that state's part.",
		}, []string{"state"}),
		reaped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "firerunner_reaped_total",
			Help: "Things without an owner that were removed, such as a microVM that a crash left behind. Should rise only after crashes.",
		}),
		webhooks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firerunner_webhooks_total",
			Help: "Webhook deliveries by result. unauthorized that rises: a wrong token, or strangers; unavailable: the " +
				"store does not write; none at all: GitLab switched the webhook off.",
		}, []string{"result"}),
		acks: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "firerunner_webhook_seconds", Buckets: []float64{.001, .0025, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5, 10},
			Help: "How long webhook deliveries took to answer. GitLab gives up after 10 s; we promise 20 ms for 99 of 100.",
		}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firerunner_gitlab_requests_total",
			Help: "Requests to GitLab's API by call and HTTP status; code 0 is no answer. 401 or 403: the token; 429: GitLab's rate limit.",
		}, []string{"op", "code"}),
		callTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "firerunner_gitlab_request_seconds", Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
			Help: "How long GitLab's API took to begin its answer. It is part of the time between a push and its job.",
		}, []string{"op"}),
	}
	m.late, m.renewals = newLateWrites(), newRenewals()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "firerunner_build_info", Help: "Always 1; its labels say which FireRunner runs, and what built it.",
		ConstLabels: prometheus.Labels{"version": cfg.Version, "go": runtime.Version()},
	})
	build.Set(1)
	m.registry.MustRegister(build, m.phases, m.jobs, m.runners, m.overdue, m.reaped, m.webhooks, m.acks, m.calls, m.callTime,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if cfg.Source != nil {
		m.registry.MustRegister(newGauges(cfg))
	}
	for _, s := range firerunner.States() {
		if s != firerunner.Gone {
			m.phases.WithLabelValues(s.String())
			m.overdue.WithLabelValues(s.String())
		}
	}
	for _, s := range jobStatuses() {
		m.jobs.WithLabelValues(s)
	}
	for _, o := range outcomes() {
		m.runners.WithLabelValues(o)
	}
	for _, r := range cfg.WebhookResults {
		m.webhooks.WithLabelValues(r)
	}
	return m
}

func jobStatuses() []string {
	return []string{"pending", "running", "success", "failed", "canceled", "refused"}
}

func outcomes() []string {
	return []string{
		string(firerunner.Succeeded), string(firerunner.Failed), string(firerunner.Cancelled),
		string(firerunner.Rejected), string(firerunner.Lost),
	}
}

// Record counts committed events. Each event must be given once; events of before the daemon's start are history,
// which Prometheus has already.
func (m *Metrics) Record(events []firerunner.Event) {
	for _, e := range events {
		switch e.Kind {
		case firerunner.EventMoved:
			m.phases.WithLabelValues(e.From.String()).Observe(e.Took.Seconds())
		case firerunner.EventUnwanted: // its message begins with the outcome: see Runner.End
			word, _, _ := strings.Cut(e.Message, ":")
			m.runners.WithLabelValues(known(word, outcomes())).Inc()
		case firerunner.EventOverdue:
			m.overdue.WithLabelValues(e.From.String()).Inc()
		case firerunner.EventJobSeen:
			m.jobs.WithLabelValues(known(e.Message, jobStatuses())).Inc()
		case firerunner.EventJobRefused:
			m.jobs.WithLabelValues("refused").Inc()
		case firerunner.EventReaped:
			m.reaped.Inc()
		}
	}
}

// Webhook counts one delivery.
func (m *Metrics) Webhook(result string, took time.Duration) {
	m.webhooks.WithLabelValues(result).Inc()
	m.acks.Observe(took.Seconds())
}

// GitLabRequest counts one request to GitLab; code 0 is no answer. op must be one of few words.
func (m *Metrics) GitLabRequest(op string, code int, took time.Duration) {
	m.calls.WithLabelValues(op, strconv.Itoa(code)).Inc()
	m.callTime.WithLabelValues(op).Observe(took.Seconds())
}

// Registry is where other parts may register collectors of their own.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// Serve returns what answers GET /metrics. A gauge that cannot be read is left out, and the rest is served.
func (m *Metrics) Serve() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, EnableOpenMetrics: true,
	})
}

// known returns word if it is one of words, and other if it is not.
func known(word string, words []string) string {
	for _, w := range words {
		if w == word {
			return w
		}
	}
	return other
}
