package main

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/intake"
	"github.com/firerunner/firerunner/internal/telemetry"
)

// readyKeep is how long an answer of /readyz is kept: asking GitLab takes three requests of its budget.
const readyKeep = 5 * time.Second

// openServers makes both listeners, so that an address that is taken is an error before anything runs.
func (d *daemon) openServers() error {
	in, err := d.newIntake(d.cfg.Config)
	if err != nil {
		return err
	}
	d.intake.Store(in)
	ready := d.readiness()
	webhooks := http.NewServeMux()
	webhooks.Handle(webhookPath, &d.intake)
	webhooks.Handle("GET /healthz", telemetry.Alive())
	webhooks.Handle("GET /readyz", ready)
	metrics := http.NewServeMux()
	metrics.Handle("GET /metrics", d.metrics.Serve())
	metrics.Handle("GET /healthz", telemetry.Alive())
	metrics.Handle("GET /readyz", ready)
	s := d.cfg.Server
	if d.webhooks, err = d.listen(s.Host, s.Port, "server.port", webhooks); err != nil {
		return err
	}
	d.metricsServer, err = d.listen(s.MetricsHost, s.MetricsPort, "server.metrics_port", metrics)
	return err
}

// readiness asks every part whether it works.
func (d *daemon) readiness() *telemetry.Readiness {
	checks := map[string]telemetry.Check{
		"store": d.writable,
		"queue": d.queue.Ping,
		"gitlab": func(ctx context.Context) error {
			_, err := d.gitlab.Check(ctx)
			return err
		},
	}
	if d.keeper != nil {
		checks["lease"] = d.leaseHeld
	}
	ready := telemetry.Ready(checks)
	ready.Keep, ready.Logger = readyKeep, d.log
	return ready
}

// databaseRoomMiB is the least room for a database of this machine. It is less than that of microVMs: see min_free_disk_mb.
const databaseRoomMiB = 4

// writable writes a host's row as it is: a database can be read whose disk is full, or which another has locked. One small
// write may still find room where others do not, so the room is looked at too.
func (d *daemon) writable(ctx context.Context) error {
	if path := d.cfg.SQLitePath(); path != "" {
		var fs unix.Statfs_t
		if unix.Statfs(filepath.Dir(path), &fs) == nil && fs.Bavail*uint64(fs.Bsize)>>20 < databaseRoomMiB {
			return firerunner.Errorf(firerunner.Exhausted, "less than %d MiB free beside %s", databaseRoomMiB, path).WithHint("make room there")
		}
	}
	return d.store.Update(ctx, func(tx firerunner.Tx) error {
		hosts, err := tx.Hosts(ctx)
		if err != nil || len(hosts) == 0 {
			return err
		}
		return tx.SaveHost(ctx, hosts[0])
	})
}

// newIntake is the webhooks' door as a configuration has it.
func (d *daemon) newIntake(cfg *config.Config) (*intake.Intake, error) {
	return intake.New(intake.Config{
		Store: d.store, SigningTokens: nonEmpty(cfg.GitLab.SigningToken), Tokens: nonEmpty(cfg.GitLab.WebhookSecret),
		AllowUnauthenticated: cfg.GitLab.AllowUnauthenticated,
		AllowedNetworks:      cfg.Intake.AllowedNetworks, TrustedProxies: cfg.Intake.TrustedProxies,
		BodyLimit:           int64(cfg.Intake.BodyLimitKiB) << 10,
		FailuresPerMinute:   cfg.Intake.FailuresPerMinute,
		DeliveriesPerSecond: float64(cfg.Intake.DeliveriesPerSecond),
		Observe:             func(r intake.Result, took time.Duration) { d.metrics.Webhook(string(r), took) },
		Logger:              d.log,
	})
}

func (d *daemon) listen(host string, port int, key string, routes http.Handler) (*server, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Unavailable, "listening: %w", err).
			WithHint("choose another %s, or end what listens there", key)
	}
	s := &server{listener: listener, http: &http.Server{
		Handler:           routes,
		ReadHeaderTimeout: d.cfg.Server.ReadHeaderTimeout,
		ReadTimeout:       d.cfg.Server.ReadTimeout,
		WriteTimeout:      d.cfg.Server.WriteTimeout,
		IdleTimeout:       d.cfg.Server.IdleTimeout,
		MaxHeaderBytes:    64 << 10,
	}}
	d.onClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if s.http.Shutdown(ctx) != nil {
			_ = s.http.Close()
		}
		_ = listener.Close() // where it was never served
		s.serving.Wait()
	})
	return s, nil
}

func (d *daemon) webhookURL() string {
	return "http://" + d.webhooks.listener.Addr().String() + webhookPath
}

func (d *daemon) metricsURL() string {
	return "http://" + d.metricsServer.listener.Addr().String() + "/metrics"
}

func nonEmpty(secrets ...firerunner.Secret) []firerunner.Secret {
	var list []firerunner.Secret
	for _, s := range secrets {
		if s != "" {
			list = append(list, s)
		}
	}
	return list
}
