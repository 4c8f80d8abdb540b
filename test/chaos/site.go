package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/internal/store/postgres"
	"github.com/firerunner/firerunner/internal/store/sqlite"
	"github.com/firerunner/firerunner/test/remains"
)

// guestGitLab is GitLab's address in real microVMs: a name that only their own DNS knows.
const guestGitLab = "http://gitlab.firerunner.internal"

// realSlots is how many real microVMs there are at once.
const realSlots = 2

// store is what is read of a site's database, beside its controllers.
type store interface {
	firerunner.Reader
	VMs(ctx context.Context, driver string) ([]firerunner.LedgerVM, error)
	io.Closer
}

// site is the controllers of one database, and the projects that they serve.
type site struct {
	name        string
	real        bool // its microVMs are
	database    string
	projects    []*gitlabtest.Project
	controllers []*controller
	balancer    *balancer
	store       store
}

// newSite makes the folders and configurations of a site's controllers, and the projects with their hooks.
func (w *world) newSite(name string, names []string, projects int, more func(i int, c *controller) (string, error)) (*site, error) {
	s := &site{name: name}
	w.sites = append(w.sites, s)
	var err error
	if s.balancer, err = newBalancer(s); err != nil {
		return nil, err
	}
	var ids []string
	for i := range projects {
		p, err := w.gitlab.CreateProject(fmt.Sprintf("%s/p%d", name, i+1), map[string]string{"README.md": "# chaos\n"})
		if err != nil {
			return nil, err
		}
		if _, err := w.gitlab.AddHook(p.ID, gitlabtest.Hook{URL: s.balancer.url(), Token: hookToken, JobEvents: true}); err != nil {
			return nil, err
		}
		s.projects, ids = append(s.projects, p), append(ids, fmt.Sprint(p.ID))
	}
	for i, name := range names {
		c := &controller{name: name, program: w.Program, dir: filepath.Join(w.dir, name)}
		s.controllers = append(s.controllers, c)
		if c.port, err = freePort(); err != nil {
			return nil, err
		}
		metrics, err := freePort()
		if err != nil {
			return nil, err
		}
		if err := os.Mkdir(c.dir, 0o711); err != nil {
			return nil, err
		}
		for file, text := range map[string]string{"token": w.token, "hook-token": hookToken, "hosts-token": hostToken} {
			if err := os.WriteFile(filepath.Join(c.dir, file), []byte(text+"\n"), 0o600); err != nil {
				return nil, err
			}
		}
		text, err := more(i, c)
		if err != nil {
			return nil, err
		}
		text = fmt.Sprintf(`state_dir: state
server: {host: 127.0.0.1, port: %d, metrics_port: %d}
gitlab: {url: %q, token_file: token, webhook_secret_file: hook-token, projects: [%s]%s}
sweep: {interval: 2s, requests_per_minute: 6000, discover: false}
log: {level: debug, format: json}
shutdown_grace: 30s
%s`, c.port, metrics, w.gitlab.URL(), strings.Join(ids, ", "), map[bool]string{true: ", guest_url: " + guestGitLab}[name == realName], text)
		if err := os.WriteFile(c.config(), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// hookToken is what webhooks prove themselves with.
const hookToken = "the-hooks-token"

// fleetSite is the controllers on one PostgreSQL.
func (w *world) fleetSite() (*site, error) {
	names := make([]string, w.Controllers)
	for i := range names {
		names[i] = string(rune('a' + i))
	}
	url := w.postgres.URL("postgres")
	s, err := w.newSite("fleet", names, fleetProjects, func(_ int, c *controller) (string, error) {
		port, err := freePort()
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(c.dir, "database"), []byte(url), 0o600); err != nil {
			return "", err
		}
		return fmt.Sprintf("database_file: database\ncontroller: {name: %s, lease_time: 3s}\nvm: {max_vcpu: 4, max_memory_mb: 4096}\n", c.name) + w.fleet.config(port), nil
	})
	if err != nil {
		return nil, err
	}
	s.database = url
	return s, nil
}

// realName is the one controller with real microVMs.
const realName = "real"

// realSite is one controller on SQLite.
func (w *world) realSite() (*site, error) {
	s, err := w.newSite("real", []string{realName}, 1, func(int, *controller) (string, error) {
		return fmt.Sprintf(`image: {dir: %q}
vm: {accel: %s, default_vcpu: 1, default_memory_mb: 1024, max_vcpu: 2, max_memory_mb: 2048}
scheduler: {worker_count: %d, vcpus: 8, memory_mb: 8192}
deadlines: {placed: 8m, creating: 8m, booting: 8m, ready: 8m}
`, w.ImageDir, w.Accel, realSlots), nil
	})
	if err != nil {
		return nil, err
	}
	s.real = true
	return s, nil
}

// open opens the database beside the controllers, once they have made its tables.
func (s *site) open(ctx context.Context) (err error) {
	quiet := slog.New(slog.DiscardHandler)
	if s.real {
		s.store, err = sqlite.Open(ctx, sqlite.Config{Path: s.controllers[0].state("firerunner.db"), Logger: quiet})
		return err
	}
	s.store, err = postgres.Open(ctx, postgres.Config{URL: firerunner.Secret(s.database), Logger: quiet})
	return err
}

// left is what the site has not removed yet, in words; controllers that run are not counted.
func (s *site) left(ctx context.Context) (left []string) {
	look, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	rows, err := s.store.Runners(look, firerunner.RunnerQuery{Live: true})
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", s.name, err)}
	}
	for _, r := range rows {
		left = append(left, fmt.Sprintf("%s: runner %s of %q, %s %s, address %v", s.name, r.ID, r.Controller, r.State, r.Desired, r.Address))
	}
	partitions := []string{"flintlock", "qemu"}
	for _, c := range s.controllers {
		partitions = append(partitions, "flintlock@"+c.name)
	}
	for _, p := range partitions {
		vms, err := s.store.VMs(look, p)
		if err != nil {
			left = append(left, fmt.Sprintf("%s: %v", s.name, err))
		}
		for _, vm := range vms {
			left = append(left, fmt.Sprintf("%s: row %s of the ledger of %s", s.name, vm.ID, p))
		}
	}
	for _, c := range s.controllers {
		c.mu.Lock()
		own := 0
		if c.cmd != nil {
			own = c.cmd.Process.Pid
		}
		c.mu.Unlock()
		for _, p := range remains.Processes(c.dir) {
			if p.PID != own {
				left = append(left, fmt.Sprintf("%s: process %d, %s", c.name, p.PID, p.Name()))
			}
		}
		entries, _ := os.ReadDir(c.state("vms"))
		for _, e := range entries {
			if e.Name() != "uids.lock" {
				left = append(left, fmt.Sprintf("%s: %s of a microVM", c.name, e.Name()))
			}
		}
		for _, group := range remains.Cgroups(c.installation()) {
			if !strings.HasSuffix(group, c.installation()) {
				left = append(left, fmt.Sprintf("%s: control group %s", c.name, group))
			}
		}
	}
	return left
}

// leftAfter is what is left of controllers that have ended.
func (s *site) leftAfter() (left []string) {
	for _, c := range s.controllers {
		for _, p := range remains.Processes(c.dir) {
			left = append(left, fmt.Sprintf("after %s: process %d, %s", c.name, p.PID, p.Name()))
		}
		for _, at := range remains.Files(c.dir) {
			left = append(left, fmt.Sprintf("after %s: %s", c.name, at))
		}
		for _, group := range remains.Cgroups(c.installation()) {
			left = append(left, fmt.Sprintf("after %s: control group %s", c.name, group))
		}
	}
	return left
}

func (c *controller) installation() string {
	text, _ := os.ReadFile(c.state("installation"))
	return strings.TrimSpace(string(text))
}
