package bench

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/flintlock"
	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

// BenchmarkFleetCreates makes microVMs on ten hosts through gRPC, with the ledger in a real database, forty at a time, and
// removes each. The hosts' machines boot nothing: what is measured is our side and the wire. It prints creates per second
// and how long one Create took.
func BenchmarkFleetCreates(b *testing.B) {
	const hosts, atOnce = 10, 40
	store, err := sqlite.Open(b.Context(), sqlite.Config{Path: filepath.Join(b.TempDir(), "ledger.db"), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	defer store.Close()
	digest := "@sha256:" + strings.Repeat("0", 64)
	cfg := flintlock.Config{
		Namespace: "fr-bench", Ledger: store, GuestURL: "192.0.2.1:8443", GuestFingerprint: "sha256:" + strings.Repeat("0", 64),
		Logger: slog.New(slog.DiscardHandler),
	}
	for i := range hosts {
		srv, err := flintlocktest.Start(flintlocktest.Config{Dir: b.TempDir()})
		require.NoError(b, err)
		defer srv.Close()
		cfg.Hosts = append(cfg.Hosts, flintlock.Host{Name: fmt.Sprint("h", i), Endpoint: srv.Addr(), TLS: flintlock.TLS{Insecure: true}})
	}
	driver, err := flintlock.New(b.Context(), cfg)
	require.NoError(b, err)
	defer driver.Close()

	var mu sync.Mutex
	var took []time.Duration
	var next atomic.Int64
	b.ResetTimer()
	began := time.Now()
	var wait sync.WaitGroup
	for range atOnce {
		wait.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				id := fmt.Sprintf("b%d", i)
				at := time.Now()
				_, err := driver.Create(b.Context(), firerunner.MicroVMSpec{
					ID: id, Host: fmt.Sprint("h", i%hosts), Size: firerunner.Size{VCPUs: 1, MemoryMiB: 1024}, Deadline: at.Add(time.Hour),
					Image: firerunner.Image{Name: "default", OCI: firerunner.OCIImage{
						Kernel: "registry.example.com/kernel" + digest, KernelFile: "boot/vmlinux", RootFS: "registry.example.com/root" + digest,
					}},
				})
				one := time.Since(at)
				if err == nil {
					err = driver.Destroy(b.Context(), id)
				}
				if err != nil {
					b.Error(err)
					return
				}
				mu.Lock()
				took = append(took, one)
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	whole := time.Since(began)
	b.StopTimer()
	require.Len(b, took, b.N)
	b.ReportMetric(float64(b.N)/whole.Seconds(), "lives/s")
	percentiles(b, took, "create")
}
