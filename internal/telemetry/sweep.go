package telemetry

import "github.com/prometheus/client_golang/prometheus"

// SweepState is what the sweep is about at a scrape.
type SweepState struct {
	Active, Idle int     // projects
	PerMinute    float64 // requests to GitLab that may be made now
	Requests     int64   // that were made
	Trouble      int     // projects whose webhook does not do its work
}

// Sweep adds the metrics of the sweep, which are read at each scrape. It may be called once.
func (m *Metrics) Sweep(read func() SweepState) {
	gauge := func(name, help string, labels prometheus.Labels, value func(SweepState) float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(
			prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 { return value(read()) }))
	}
	const projects = "Projects that are asked for pending jobs: active ones at each interval of the sweep, idle ones rarely."
	gauge("firerunner_sweep_projects", projects, prometheus.Labels{"kind": "active"}, func(s SweepState) float64 { return float64(s.Active) })
	gauge("firerunner_sweep_projects", projects, prometheus.Labels{"kind": "idle"}, func(s SweepState) float64 { return float64(s.Idle) })
	gauge("firerunner_sweep_requests_per_minute",
		"Requests to GitLab that the sweep may make now: sweep.requests_per_minute, or what GitLab's rate limit leaves. 0: it waits.",
		nil, func(s SweepState) float64 { return s.PerMinute })
	gauge("firerunner_webhooks_in_trouble",
		"Active projects whose webhook is switched off, missing or without job events: their jobs wait for the sweep. The event says which.",
		nil, func(s SweepState) float64 { return float64(s.Trouble) })
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "firerunner_sweep_requests_total",
		Help: "Requests to GitLab for nobody in particular: the sweep, discovery, the reaper and the look at webhooks.",
	}, func() float64 { return float64(read().Requests) }))
}
