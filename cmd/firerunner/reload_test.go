package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

func TestReload(t *testing.T) {
	t.Parallel()
	gitlab, err := gitlabtest.Start(gitlabtest.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, gitlab.Close()) })
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := free.Addr().(*net.TCPAddr).Port
	require.NoError(t, free.Close())
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	write := func(hosts, more string) {
		text := fmt.Sprintf(`
state_dir: state
driver: flintlock
server: {host: 127.0.0.1, port: 0, metrics_host: 127.0.0.1, metrics_port: 0}
gitlab: {url: %q, token: %q, webhook_secret: hush}
guest: {host: 127.0.0.1, port: %d, public_address: 192.0.2.1}
vm: {max_vcpu: 1, max_memory_mb: 1024, default_vcpu: 1, default_memory_mb: 1024}
flintlock: {tls: {insecure: true}, probe_interval: 1h}
hosts: [%s]
%s`, gitlab.URL(), gitlab.CreateToken("api"), port, hosts, more)
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	}
	host := func(name string) string {
		return fmt.Sprintf("{name: %s, endpoint: '127.0.0.1:1', vcpu: 2, memory_mb: 2048}", name)
	}
	a := &app{Main: Main{Environ: []string{"HOME=" + dir, "FIRERUNNER_CONFIG=" + file}}}
	load := func() (*config.Config, error) { return a.load(false) }

	write(host("a"), "")
	cfg, err := load()
	require.NoError(t, err)
	var log bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	d, err := openDaemon(ctx, daemonConfig{Config: cfg, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	defer d.close()
	require.NoError(t, d.control.SyncHosts(ctx, cfg.HostList()))
	names := func() (names []string) {
		hosts, err := d.store.Hosts(ctx)
		require.NoError(t, err)
		for _, h := range hosts {
			names = append(names, h.Name)
		}
		return names
	}
	require.Equal(t, []string{"a"}, names())

	write(host("a")+", "+host("b"), "log: {level: debug}")
	require.NoError(t, d.reload(ctx, load))
	require.Equal(t, []string{"a", "b"}, names())
	require.Contains(t, log.String(), `changed="gitlab.token log.level hosts"`)
	_, err = d.fleetImage(ctx, "default")
	require.Error(t, err, "no host has references of its own")

	write(host("a")+", "+host("a"), "")
	require.Error(t, d.reload(ctx, load), "two of one name")
	write(host("c"), "nonsense: 1")
	require.Error(t, d.reload(ctx, load))
	require.Equal(t, []string{"a", "b"}, names(), "a wrong file changes nothing")

	write(host("b"), "")
	require.NoError(t, d.reload(ctx, load))
	require.Equal(t, []string{"b"}, names(), "it was empty")
}
