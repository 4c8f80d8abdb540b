package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// reloads waits for a result to have been counted so often.
func (p *plant) reloads(result string, count int) {
	p.t.Helper()
	p.eventually(fmt.Sprintf("%d reloads %s", count, result), func() bool {
		return p.metric(fmt.Sprintf("firerunner_config_reloads_total{result=%q}", result)) == fmt.Sprint(count)
	})
}

// exchange puts another file in the place of one, as editors do.
func exchange(t *testing.T, file, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(file+".new", []byte(text), 0o600))
	require.NoError(t, os.Rename(file+".new", file))
}

// What can come into force at once does, what cannot is named, and a wrong file changes nothing at all.
func TestConfigIsFollowed(t *testing.T) {
	t.Parallel()
	p := newPlant(t, time.Millisecond, "sweep: {interval: 1h}\nlog: {level: debug}\n")
	p.level.Set(slog.LevelDebug)
	p.start()
	p.follow()
	require.Equal(t, "1", p.metric("firerunner_config_last_reload_successful"))
	require.Equal(t, 401, p.webhook("other", "a"))

	// Refused: two mistakes, and beside them changes that are right.
	exchange(t, p.file, p.configuration("sweep: {interval: never}\nlog: {level: loud}\nshutdown_grace: 1s\n"))
	p.reloads("refused", 1)
	require.Equal(t, "0", p.metric("firerunner_config_last_reload_successful"))
	require.Contains(t, p.log.String(), `level=ERROR msg="wrong in the configuration" source=`+p.file+` line=6 key=sweep.interval problem="\"never\" is not a duration`)
	require.Contains(t, p.log.String(), `line=7 key=log.level`)
	require.Contains(t, p.log.String(), `msg="the configuration was refused; the one before stays in force" problems=2`)
	require.Equal(t, 5*time.Minute, p.daemon.inForce.Load().ShutdownGrace)

	// In force at once: a profile, limits, the level of the log, the hosts' room; and not the port.
	require.NoError(t, os.WriteFile(p.file, []byte(p.configuration(
		"sweep: {interval: 1h}\nlog: {level: info}\nscheduler: {worker_count: 7}\nprofiles: {extra: {tags: [extra]}}\nguest: {port: 1}\n")), 0o600))
	p.reloads("applied", 1)
	require.Equal(t, "1", p.metric("firerunner_config_last_reload_successful"))
	require.Equal(t, "1", p.metric("firerunner_config_keys_pending"))
	require.Contains(t, p.log.String(), `msg="changed keys that come into force at the next start" keys=guest.port`)
	require.Equal(t, slog.LevelInfo, p.level.Level())
	hosts, err := p.daemon.store.Hosts(t.Context())
	require.NoError(t, err)
	require.Equal(t, 7, hosts[0].Slots)
	pipeline, err := p.gitlab.Push(p.project.ID, map[string]string{".gitlab-ci.yml": "job: {tags: [extra], script: ['true']}\n"})
	require.NoError(t, err)
	p.succeed(pipeline.JobIDs)

	// It does not go with what a running daemon cannot change.
	exchange(t, p.file, p.configuration("vm: {max_vcpu: 1}\n")) // a key twice
	p.reloads("refused", 2)
	exchange(t, p.file, p.configuration("sweep: {interval: 100ms}\n")) // from an hour: the sweep begins anew
	p.reloads("applied", 2)
	require.Equal(t, "0", p.metric("firerunner_config_keys_pending"))
	_, err = p.gitlab.AddFault(gitlabtest.Fault{Hook: true, Action: gitlabtest.FaultDrop})
	require.NoError(t, err)
	p.succeed(p.push(1)) // no webhook told of it
}

// Kubernetes mounts a folder of links, and changes what it holds by exchanging one of them. A secret in a file of its own
// changes beside the configuration.
func TestConfigBehindLinks(t *testing.T) {
	t.Parallel()
	p := newPlant(t, time.Millisecond, "sweep: {interval: 1h}\n")
	mount := filepath.Join(p.dir, "mount")
	version := func(name, secret string) {
		dir := filepath.Join(mount, name)
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "webhook"), []byte(secret+"\n"), 0o600))
		require.NoError(t, os.Symlink(name, filepath.Join(mount, "..new")))
		require.NoError(t, os.Rename(filepath.Join(mount, "..new"), filepath.Join(mount, "..data")))
	}
	version("..1", "first")
	require.NoError(t, os.Symlink("..data/webhook", filepath.Join(mount, "webhook")))
	text := fmt.Sprintf(`
state_dir: state
driver: fake
server: {host: 127.0.0.1, port: %d, metrics_host: 127.0.0.1, metrics_port: 0}
gitlab: {url: %q, token: %q, webhook_secret_file: mount/webhook}
vm: {max_vcpu: 1, max_memory_mb: 1024, default_vcpu: 1, default_memory_mb: 1024}
`, p.port, p.gitlab.URL(), p.token)
	require.NoError(t, os.WriteFile(p.file, []byte(text), 0o600))
	p.start()
	p.follow()
	require.Equal(t, 401, p.webhook("second", "a"))
	require.Equal(t, 2, p.webhook("first", "b")/100)

	version("..2", "second")
	p.reloads("applied", 1)
	require.Equal(t, 401, p.webhook("first", "c"))
	require.Equal(t, 2, p.webhook("second", "d")/100)
	require.NotContains(t, p.log.String(), "second")

	require.NoError(t, os.RemoveAll(filepath.Join(mount, "..2")))
	p.reloads("refused", 1)
	require.Equal(t, 2, p.webhook("second", "e")/100, "the one before stays in force")
	version("..3", "third")
	p.reloads("applied", 2)
	require.Equal(t, 2, p.webhook("third", "f")/100)
}

// Where the hosts cannot be written down nothing comes into force, and it is tried again.
func TestReloadIsAllOrNothing(t *testing.T) {
	t.Parallel()
	p := newPlant(t, time.Millisecond, "sweep: {interval: 1h}\n")
	p.start()
	before := p.daemon.inForce.Load()
	p.write("sweep: {interval: 2h}\nscheduler: {worker_count: 9}\nintake: {failures_per_minute: 7}\n")
	door := p.daemon.intake.Load()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the store refuses
	err := p.daemon.reload(ctx, p.load)
	require.Error(t, err)
	require.NotEqual(t, firerunner.Invalid, firerunner.CodeOf(err))
	require.Same(t, before, p.daemon.inForce.Load())
	require.Same(t, door, p.daemon.intake.Load())
	require.Equal(t, "1", p.metric(`firerunner_config_reloads_total{result="failed"}`))
	require.NoError(t, p.daemon.reload(t.Context(), p.load))
	require.NotSame(t, door, p.daemon.intake.Load())
	require.Equal(t, 2*time.Hour, p.daemon.inForce.Load().Sweep.Interval)
}
