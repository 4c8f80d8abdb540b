package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

const fleetRunner = "runner0000000001"

// fleetCommand makes the database that a daemon would have made.
func fleetCommand(ts *testscript.TestScript, _ bool, args []string) {
	ctx := context.Background()
	path := filepath.Join(ts.Getenv("FIRERUNNER_STATE_DIR"), "firerunner.db")
	store, err := sqlite.Open(ctx, sqlite.Config{Path: path, Logger: slog.New(slog.DiscardHandler)})
	ts.Check(err)
	ts.Check(store.Update(ctx, func(tx firerunner.Tx) error {
		if len(args) > 0 {
			return endFleetRunner(ctx, tx)
		}
		for _, h := range []firerunner.Host{
			{Name: "a", Driver: "flintlock", VCPUs: 8, MemoryMiB: 16384, Slots: 8, Labels: []string{"zone=a"}, SeenAt: time.Now()},
			{Name: "b", Driver: "flintlock", VCPUs: 4, MemoryMiB: 8192, Slots: 4, Trouble: "it does not answer"},
		} {
			if err := tx.SaveHost(ctx, h); err != nil {
				return err
			}
		}
		r := firerunner.NewRunner(fleetRunner, firerunner.Demand{ProjectID: 1}, time.Now())
		r.State, r.Host, r.Size = firerunner.Running, "a", firerunner.Size{VCPUs: 2, MemoryMiB: 4096}
		return tx.CreateRunner(ctx, r)
	}))
	ts.Check(store.Close())
}

func endFleetRunner(ctx context.Context, tx firerunner.Tx) error {
	r, err := tx.Runner(ctx, fleetRunner)
	if err != nil {
		return err
	}
	r.State = firerunner.Gone
	return tx.SaveRunner(ctx, &r)
}

// Waiting says how much is left, and returns when the host is empty.
func TestHostsDrainWait(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx := t.Context()
	store, err := sqlite.Open(ctx, sqlite.Config{Path: filepath.Join(dir, "firerunner.db"), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	require.NoError(t, store.Update(ctx, func(tx firerunner.Tx) error {
		r := firerunner.NewRunner(fleetRunner, firerunner.Demand{ProjectID: 1}, time.Now())
		r.State, r.Host = firerunner.Running, "a"
		if err := tx.CreateRunner(ctx, r); err != nil {
			return err
		}
		return tx.SaveHost(ctx, firerunner.Host{Name: "a", Slots: 1})
	}))
	drain := func(stderr *signalWriter, args ...string) (int, string) {
		var out strings.Builder
		status := Main{
			Args:    append([]string{"hosts", "drain", "a", "--wait"}, args...),
			Environ: []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "FIRERUNNER_STATE_DIR=" + dir},
			Stdin:   strings.NewReader(""), Stdout: &out, Stderr: stderr,
		}.Run(ctx)
		return status, out.String()
	}
	late := newSignalWriter()
	status, _ := drain(late, "--timeout", "1ms")
	require.Equal(t, 6, status)

	said := newSignalWriter()
	var ending sync.WaitGroup
	ending.Go(func() {
		select {
		case <-said.wrote:
		case <-ctx.Done():
		}
		if err := store.Update(ctx, func(tx firerunner.Tx) error { return endFleetRunner(ctx, tx) }); err != nil {
			t.Error(err)
		}
	})
	status, out := drain(said)
	ending.Wait()
	require.Zero(t, status, said.text())
	require.Equal(t, "a: draining, 0 microVMs\n", out)
	require.Contains(t, said.text(), "host a drains: 1 microVMs left")
}

// signalWriter says when something was written to it.
type signalWriter struct {
	mu    sync.Mutex
	all   strings.Builder
	once  sync.Once
	wrote chan struct{}
}

func newSignalWriter() *signalWriter { return &signalWriter{wrote: make(chan struct{})} }

func (w *signalWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.once.Do(func() { close(w.wrote) })
	return w.all.Write(p)
}

func (w *signalWriter) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.String()
}
