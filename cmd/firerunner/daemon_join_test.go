package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/peers"
)

// open opens a daemon with a state folder of its own and further settings, but starts nothing.
func (s several) open(state, settings string) (*daemon, error) {
	s.Helper()
	file := filepath.Join(s.dir, state+".yaml")
	require.NoError(s, os.WriteFile(file, fmt.Appendf(nil, `
state_dir: %q
driver: fake
gitlab: {url: "http://127.0.0.1:1", token: glpat-x, webhook_secret: hush}
%s
`, filepath.Join(s.dir, state), settings), 0o600))
	environ := append(append([]string{}, s.environ...), "FIRERUNNER_CONFIG="+file, "FIRERUNNER_STATE_DIR="+filepath.Join(s.dir, state))
	cfg, err := (&app{Main: Main{Environ: environ}}).load(false)
	require.NoError(s, err)
	return openDaemon(s.Context(), daemonConfig{Config: cfg, Logger: slog.New(slog.DiscardHandler), Environ: environ})
}

const anyPorts = "server: {host: 127.0.0.1, port: 0, metrics_host: 127.0.0.1, metrics_port: 0}\n"

// TestOpenFailsAfterJoin: a daemon that cannot open lets its lease be over at once, for another to stand in, where something
// of it is left; and gives it up where nothing is.
func TestOpenFailsAfterJoin(t *testing.T) {
	t.Parallel()
	s := newSeveral(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	settings := fmt.Sprintf("server: {host: 127.0.0.1, port: %d, metrics_host: 127.0.0.1, metrics_port: 0}\ncontroller: {name: a, lease_time: 1m}\n",
		taken.Addr().(*net.TCPAddr).Port)
	_, err = s.open("a", settings)
	require.ErrorContains(t, err, "address already in use")
	seen, err := peers.See(t.Context(), s, s)
	require.NoError(t, err)
	require.Empty(t, seen, "nothing of it is left")
	leases, err := s.LeasesOf(t.Context(), "")
	require.NoError(t, err)
	require.Empty(t, leases)

	s.runner(fleetRunner, "a")
	_, err = s.open("a", settings)
	require.ErrorContains(t, err, "address already in use")
	leases, err = s.LeasesOf(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, leases, 1)
	require.Equal(t, firerunner.LeaseOf("a"), leases[0].Name)
	require.True(t, leases[0].Over)
	seen, err = peers.See(t.Context(), s, s)
	require.NoError(t, err)
	require.Len(t, seen, 1)
	require.Equal(t, peers.Away, seen[0].State)
}

// TestSecondUnnamedController: one of a site's controllers may be unnamed; the second is refused, once it is clear that the
// first is not just ending, and told what to do.
func TestSecondUnnamedController(t *testing.T) {
	t.Parallel()
	s := newSeveral(t)
	first, err := s.open("first", anyPorts+"controller: {lease_time: 2s}\n")
	require.NoError(t, err)
	closeFirst := sync.OnceFunc(first.close)
	defer closeFirst()
	began := time.Now()
	_, err = s.open("second", anyPorts+"controller: {lease_time: 2s}\n")
	require.Equal(t, firerunner.Conflict, firerunner.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, `another process serves this database as controller ""`)
	require.Contains(t, firerunner.HintOf(err), "controller.name")
	require.Greater(t, time.Since(began), 2*time.Second, "it would have got the lease of one that died")
	require.NoError(t, first.leaseHeld(t.Context()), "the first goes on")
	claims, err := s.LeasesOf(t.Context(), "claim/")
	require.NoError(t, err)
	require.Empty(t, claims, "nobody waits any more")

	named, err := s.open("second", anyPorts+"controller: {name: b, lease_time: 2s}\n")
	require.NoError(t, err)
	named.close()
	closeFirst()
	again, err := s.open("second", anyPorts)
	require.NoError(t, err, "nobody has that name now")
	again.close()
}
