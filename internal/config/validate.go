package config

import (
	"encoding/base64"
	"math"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/firerunner/firerunner"
)

// checker collects the problems of one Config.
type checker struct {
	*Config
	problems Problems
}

// check looks at everything that one value alone, or several together, can have wrong. gitlab says whether what is
// needed to talk with GitLab must be there.
func (c *Config) check(gitlab bool) Problems {
	k := checker{Config: c}
	k.server()
	k.gitlab(gitlab)
	k.hooks(gitlab)
	k.intake()
	k.vm()
	k.profiles()
	k.scheduler()
	k.controller()
	k.hosts()
	k.durations()
	k.rest()
	return once(k.problems)
}

// once leaves out what was said before: each profile that inherits a wrong size from vm finds the same.
func once(all Problems) Problems {
	said := map[Problem]bool{}
	return slices.DeleteFunc(all, func(p Problem) bool {
		again := said[p]
		said[p] = true
		return again
	})
}

func (k *checker) problem(key, format string, args ...any) *Problem {
	k.problems = append(k.problems, k.at(key, format, args...))
	return &k.problems[len(k.problems)-1]
}

func (k *checker) server() {
	for _, p := range []struct {
		host, port string
		value      int
	}{{"server.host", "server.port", k.Server.Port}, {"server.metrics_host", "server.metrics_port", k.Server.MetricsPort}} {
		if p.value < 0 || p.value > 65535 {
			k.problem(p.port, "%d is not a port", p.value)
		}
	}
	for key, host := range map[string]string{"server.host": k.Server.Host, "server.metrics_host": k.Server.MetricsHost} {
		if host != "" && host != "localhost" && net.ParseIP(host) == nil {
			k.problem(key, "%q is not an address of this machine", short(host)).Hint = "0.0.0.0 listens on all, 127.0.0.1 on this machine only"
		}
	}
	if k.Server.Port != 0 && k.Server.Port == k.Server.MetricsPort {
		k.problem("server.metrics_port", "is the same as server.port")
	}
	k.url("server.public_url", k.Server.PublicURL)
}

func (k *checker) gitlab(needed bool) {
	g := k.GitLab
	if needed && g.URL == "" {
		k.problem("gitlab.url", "is missing").Hint = "such as https://gitlab.example.com"
	}
	k.url("gitlab.url", g.URL)
	if g.GuestURL != g.URL {
		k.url("gitlab.guest_url", g.GuestURL)
	}
	if needed && g.Token == "" && g.TokenFile == "" {
		k.problem("gitlab.token", "is missing").Hint = "an access token with the scopes create_runner, manage_runner and read_api: gitlab.token_file or " + Variable("gitlab.token")
	}
	for key, secret := range map[string]firerunner.Secret{"gitlab.token": g.Token, "gitlab.webhook_secret": g.WebhookSecret, "gitlab.signing_token": g.SigningToken} {
		if strings.ContainsFunc(secret.Reveal(), func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
			k.problem(key, "holds a space or a line break")
		}
	}
	for _, project := range g.Projects {
		if !isProject(project) {
			k.problem("gitlab.projects", "%q is neither a project's id nor its full path", short(project)).Hint = "such as 42 or group/name"
		}
	}
}

// isProject allows what GitLab allows in a path, without looking too closely: GitLab has the last word.
func isProject(text string) bool {
	if id, err := strconv.ParseInt(text, 10, 64); err == nil {
		return id > 0
	}
	parts := strings.Split(text, "/")
	return len(parts) >= 2 && !slices.Contains(parts, "") && !slices.Contains(parts, "..") && !strings.ContainsAny(text, " ?#%\\")
}

// hooks checks that a hook can prove where it comes from.
func (k *checker) hooks(needed bool) {
	g := k.GitLab
	if s := g.SigningToken.Reveal(); s != "" {
		// whsec_ and base64 of 32 bytes: https://docs.gitlab.com/user/project/integrations/webhooks/
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s, "whsec_"))
		if !strings.HasPrefix(s, "whsec_") || err != nil || len(key) < 16 {
			k.problem("gitlab.signing_token", "is not a signing token").Hint = "whsec_ and base64, as GitLab shows it once"
		}
	}
	none := g.SigningToken == "" && g.SigningTokenFile == "" && g.WebhookSecret == "" && g.WebhookSecretFile == ""
	if needed && none && !g.AllowUnauthenticated {
		k.problem("gitlab.webhook_secret", "is missing, and so is gitlab.signing_token: anybody could send hooks").Hint = "set one of them as in GitLab's webhook, or gitlab.allow_unauthenticated: true"
	}
	if !none && g.AllowUnauthenticated {
		k.problem("gitlab.allow_unauthenticated", "is true, but hooks prove themselves: which one is meant?").Hint = "remove it"
	}
}

func (k *checker) intake() {
	k.between("intake.body_limit_kib", k.Intake.BodyLimitKiB, 16, 25<<10) // GitLab sends 25 MB at most
	k.between("intake.failures_per_minute", k.Intake.FailuresPerMinute, 1, math.MaxInt32)
	k.between("intake.deliveries_per_second", k.Intake.DeliveriesPerSecond, 1, math.MaxInt32)
}

func (k *checker) scheduler() {
	s := k.Scheduler
	k.between("scheduler.worker_count", s.Slots, 1, 10_000)
	k.between("scheduler.give_up_after", s.GiveUpAfter, 1, 1000)
	k.between("scheduler.queue_size", s.QueueSize, 1, 1_000_000)
	k.between("scheduler.vcpus", s.VCPUs, 1, 100_000)
	k.between("scheduler.memory_mb", s.MemoryMiB, 1, 1<<30)
	k.between("scheduler.min_free_disk_mb", s.MinFreeDiskMiB, 0, 1<<30)
	if !(s.OvercommitCPU >= 1 && s.OvercommitCPU <= 100) { // also refuses NaN
		k.problem("scheduler.overcommit_cpu", "%v is not between 1 and 100", s.OvercommitCPU)
	}
	if strings.ContainsFunc(s.HostName, unicode.IsSpace) {
		k.problem("scheduler.host_name", "%q holds a space", short(s.HostName))
	}
}

func (k *checker) durations() {
	const day = 24 * time.Hour
	d := k.Deadlines
	for _, t := range []struct {
		key         string
		value       time.Duration
		least, most time.Duration
	}{
		{"server.read_header_timeout", k.Server.ReadHeaderTimeout, 100 * time.Millisecond, time.Hour},
		{"server.read_timeout", k.Server.ReadTimeout, 100 * time.Millisecond, time.Hour},
		{"server.write_timeout", k.Server.WriteTimeout, 100 * time.Millisecond, time.Hour},
		{"server.idle_timeout", k.Server.IdleTimeout, 100 * time.Millisecond, day},
		{"gitlab.request_timeout", k.GitLab.RequestTimeout, time.Second, 10 * time.Minute},
		{"deadlines.placed", d.Placed, time.Second, day},
		{"deadlines.creating", d.Creating, time.Second, day},
		{"deadlines.booting", d.Booting, time.Second, day},
		{"deadlines.ready", d.Ready, time.Second, day},
		{"deadlines.job_timeout", d.JobTimeout, time.Second, 30 * day},
		{"deadlines.running_grace", d.RunningGrace, time.Second, day},
		{"deadlines.stopping", d.Stopping, time.Second, day},
		{"deadlines.fail_job", d.FailJob, time.Second, time.Hour},
		{"flintlock.probe_interval", k.Flintlock.ProbeInterval, 100 * time.Millisecond, time.Hour},
		{"flintlock.probe_timeout", k.Flintlock.ProbeTimeout, 100 * time.Millisecond, time.Hour},
		{"guest.silent_after", k.Guest.SilentAfter, 4 * time.Second, time.Hour},
		{"flintlock.lost_after", k.Flintlock.LostAfter, time.Second, day},
		{"scheduler.hold_after", k.Scheduler.HoldAfter, time.Second, day},
		{"scheduler.give_up_for", k.Scheduler.GiveUpFor, time.Second, day},
		{"sweep.interval", k.Sweep.Interval, 100 * time.Millisecond, day},
		{"sweep.project_window", k.Sweep.ProjectWindow, time.Minute, 365 * day},
		{"sweep.active_window", k.Sweep.ActiveWindow, time.Second, 365 * day},
		{"sweep.idle_interval", k.Sweep.IdleInterval, 100 * time.Millisecond, day},
		{"sweep.discover_interval", k.Sweep.DiscoverInterval, time.Second, day},
		{"sweep.webhook_interval", k.Sweep.WebhookInterval, time.Second, 30 * day},
		{"shutdown_grace", k.ShutdownGrace, 0, 30 * day},
	} {
		if t.value < t.least || t.value > t.most {
			k.problem(t.key, "%v is not between %v and %v", t.value, t.least, t.most)
		}
	}
}

func (k *checker) rest() {
	k.between("sweep.requests_per_minute", k.Sweep.RequestsPerMinute, 1, 100_000)
	k.oneOf("driver", k.Driver, "qemu", DriverFlintlock, "fake")
	k.oneOf("log.level", k.Log.Level, "debug", "info", "warn", "error")
	k.oneOf("log.format", k.Log.Format, "text", "json")
	if k.StateDir != "" && !filepath.IsAbs(k.StateDir) {
		k.problem("state_dir", "%q is not an absolute path", short(k.StateDir)).Hint = "there is no home directory to take it from"
	}
	k.database()
}

func (k *checker) url(key, text string) {
	if text == "" {
		return
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		k.problem(key, "is not a web address").Hint = "such as https://gitlab.example.com"
	case u.User != nil:
		k.problem(key, "holds a user or password; credentials have keys of their own")
	case u.RawQuery != "" || u.Fragment != "":
		k.problem(key, "must end with a path: no ? and no #")
	}
}

func (k *checker) between(key string, value, least, most int) {
	if value < least || value > most {
		k.problem(key, "%d is not between %d and %d", value, least, most)
	}
}

func (k *checker) oneOf(key, value string, choices ...string) {
	if !slices.Contains(choices, value) {
		k.problem(key, "%q is not one of %s", short(value), strings.Join(choices, ", ")).Hint = meant(nearest(value, choices))
	}
}
