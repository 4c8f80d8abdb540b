package telemetry

import "github.com/prometheus/client_golang/prometheus"

// Controller adds what is asked of one of several controllers: whether it leads the site, and for how many others it stands in.
// It is called once, and only where there may be others.
func (m *Metrics) Controller(leads func() bool, standingIn func() int) {
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "firerunner_leader",
			Help: "1 while this controller leads the site. Over all controllers the sum is 1; 0 for longer says that nobody sweeps.",
		}, func() float64 {
			if leads() {
				return 1
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "firerunner_standing_in",
			Help: "Controllers that are away and for which this one stands in. Start them again, or let their last runners end.",
		}, func() float64 { return float64(standingIn()) }),
		m.late, m.renewals,
	)
}

// LeaseRenewal counts a renewal of a lease and what came of it: ok, failed or lost.
func (m *Metrics) LeaseRenewal(result string) { m.renewals.WithLabelValues(result).Inc() }

// newRenewals has all results from the start, so that a rate of failures is 0 and not missing.
func newRenewals() *prometheus.CounterVec {
	renewals := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "firerunner_lease_renewals_total",
		Help: "Renewals of this controller's leases: ok, failed (the database did not answer in time) or lost (the lease was over).",
	}, []string{"result"})
	for _, result := range []string{"ok", "failed", "lost"} {
		renewals.WithLabelValues(result)
	}
	return renewals
}

// LateWrite counts a write that was refused because the lease was over.
func (m *Metrics) LateWrite() { m.late.Inc() }

func newLateWrites() prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{
		Name: "firerunner_late_writes_refused_total",
		Help: "Writes that were refused because this controller's lease was over: it was suspended, or cut off from the database.",
	})
}
