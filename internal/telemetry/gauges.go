package telemetry

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/firerunner/firerunner"
)

// gauges are counted from the store when they are asked for, so that they cannot drift from the truth, and a restart
// needs to restore nothing.
type gauges struct {
	source  Source
	timeout time.Duration
	log     *slog.Logger

	vms, queue, runners, up *prometheus.Desc
}

func newGauges(cfg Config) *gauges {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 2 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &gauges{
		source: cfg.Source, timeout: cfg.Timeout, log: cfg.Logger,
		vms: prometheus.NewDesc("firerunner_vms_active",
			"MicroVMs that are being made, exist, or are being removed. Zero while nothing runs; otherwise something was left behind.", nil, nil),
		queue: prometheus.NewDesc("firerunner_queue_size",
			"Runners that wait for room on a host. While it stays up the hosts are full: firerunner why JOB names the reason.", nil, nil),
		runners: prometheus.NewDesc("firerunner_runners",
			"Runners by the state that they are in now; those that are gone are not counted.", []string{"state"}, nil),
		up: prometheus.NewDesc("firerunner_store_up",
			"1 while the store answers; 0 says that the other gauges could not be read.", nil, nil),
	}
}

// Describe says which gauges there are.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	ch <- g.vms
	ch <- g.queue
	ch <- g.runners
	ch <- g.up
}

// Collect counts.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), g.timeout)
	defer cancel()
	set := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	live, err := g.source.Runners(ctx, firerunner.RunnerQuery{Live: true})
	if err != nil {
		g.log.Warn("counting runners for metrics failed", "error", err)
		set(g.up, 0)
		return
	}
	in := map[firerunner.State]int{}
	vms := 0
	for _, r := range live {
		in[r.State]++
		// Stopping without a host never had a microVM.
		if r.State >= firerunner.Creating && r.State < firerunner.Gone && r.Host != "" {
			vms++
		}
	}
	set(g.up, 1)
	set(g.vms, vms)
	set(g.queue, in[firerunner.Queued])
	for _, s := range firerunner.States() {
		if s != firerunner.Gone {
			set(g.runners, in[s], s.String())
		}
	}
}
