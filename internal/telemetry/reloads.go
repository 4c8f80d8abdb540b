package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Reloads says how reading the configuration again went, in the form that Prometheus itself has for it
// (prometheus_config_last_reload_successful).
type Reloads struct {
	total      *prometheus.CounterVec
	successful prometheus.Gauge
	at         prometheus.Gauge
	pending    prometheus.Gauge
}

// Reloads makes these metrics, once for each Metrics. The configuration that a daemon starts with counts as read well.
func (m *Metrics) Reloads(now time.Time) *Reloads {
	r := &Reloads{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "firerunner_config_reloads_total",
			Help: "How often the configuration was read again, by result: applied, refused (it is wrong: the log says each " +
				"problem) or failed (it is right and could not be put in force now: it is tried again).",
		}, []string{"result"}),
		successful: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "firerunner_config_last_reload_successful",
			Help: "1 if the configuration was right when it was read last; 0: the one before is still in force.",
		}),
		at: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "firerunner_config_last_reload_success_timestamp_seconds",
			Help: "When the configuration in force was read.",
		}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "firerunner_config_keys_pending",
			Help: "Keys of the configuration that were changed and come into force at the next start; the log names them.",
		}),
	}
	m.registry.MustRegister(r.total, r.successful, r.at, r.pending)
	for _, result := range []string{"applied", "refused", "failed"} {
		r.total.WithLabelValues(result)
	}
	r.successful.Set(1)
	r.at.Set(float64(now.Unix()))
	return r
}

// Applied counts a configuration that is in force now, but for so many keys.
func (r *Reloads) Applied(now time.Time, pending int) {
	r.total.WithLabelValues("applied").Inc()
	r.successful.Set(1)
	r.at.Set(float64(now.Unix()))
	r.pending.Set(float64(pending))
}

// Refused counts one that is wrong.
func (r *Reloads) Refused() {
	r.total.WithLabelValues("refused").Inc()
	r.successful.Set(0)
}

// Failed counts one that could not be put in force now.
func (r *Reloads) Failed() {
	r.total.WithLabelValues("failed").Inc()
	r.successful.Set(0)
}
