package bench

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

// BenchmarkColdStart runs one job after another, each in a microVM that boots for it, and prints how long its runner
// was in each state: p50 and p99, and beside them the sum that is the whole life. It needs what make image makes.
//
//	go test -run '^$' -bench ColdStart -benchtime 10x ./bench
func BenchmarkColdStart(b *testing.B) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		b.Skip("no real microVM without QEMU: apt-get install qemu-system-x86 qemu-utils")
	}
	site := startSite(b)
	var totals, toRunning []time.Duration
	phases := map[firerunner.State][]time.Duration{}
	for b.Loop() {
		pipeline, err := site.gitlab.Push(site.project, map[string]string{".gitlab-ci.yml": "job: {tags: [firecracker-1cpu-1gb], variables: {GIT_STRATEGY: none}, script: ['true']}\n"})
		require.NoError(b, err)
		id := pipeline.JobIDs[0]
		ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
		job, err := site.gitlab.WaitJob(ctx, id)
		require.NoError(b, err)
		require.Equal(b, gitlabtest.StatusSuccess, job.Status, site.gitlab.Trace(id))
		life := site.life(ctx, b, id)
		cancel()
		var total time.Duration
		for _, e := range life {
			phases[e.From] = append(phases[e.From], e.Took)
			total += e.Took
		}
		totals = append(totals, total)
		toRunning = append(toRunning, job.StartedAt.Sub(job.QueuedAt))
	}
	b.ReportMetric(0, "ns/op") // says nothing here: the phases do
	fmt.Printf("\n%-10s %8s %8s\n", "state", "p50", "p99")
	var sum time.Duration
	for _, s := range firerunner.States() {
		if d := phases[s]; len(d) > 0 {
			sum += percentile(d, 50)
			fmt.Printf("%-10s %7.2fs %7.2fs\n", s, percentile(d, 50).Seconds(), percentile(d, 99).Seconds())
		}
	}
	fmt.Printf("%-10s %7.2fs %7.2fs   (the p50s above add up to %.2fs)\n", "whole life", percentile(totals, 50).Seconds(), percentile(totals, 99).Seconds(), sum.Seconds())
	fmt.Printf("%-10s %7.2fs %7.2fs   (a job is pending -> it runs, by GitLab's clock; %d jobs)\n", "wait", percentile(toRunning, 50).Seconds(), percentile(toRunning, 99).Seconds(), len(totals))
	b.ReportMetric(percentile(totals, 50).Seconds(), "p50-s/life")
}

// site is an emulated GitLab and a daemon as users start it.
type site struct {
	gitlab  *gitlabtest.Server
	project int64
	store   *sqlite.Store
}

func startSite(b *testing.B) site {
	b.Helper()
	bin, err := filepath.Abs("../bin/firerunner")
	require.NoError(b, err)
	images := os.Getenv("FIRERUNNER_IMAGE_DIR")
	require.NotEmpty(b, images, "make bench says where images are")
	dir, err := os.MkdirTemp("/tmp", "fr-bench-")
	require.NoError(b, err)
	require.NoError(b, os.Chmod(dir, 0o711)) // microVMs' users pass through it
	b.Cleanup(func() { _ = os.RemoveAll(dir) })

	gitlab, err := gitlabtest.Start(gitlabtest.Config{Dir: b.TempDir(), ExternalURL: "http://gitlab.firerunner.internal"})
	require.NoError(b, err)
	b.Cleanup(func() { _ = gitlab.Close() })
	project, err := gitlab.CreateProject("group/bench", map[string]string{"README.md": "bench\n"})
	require.NoError(b, err)
	webhooks, metrics := freePort(b), freePort(b)
	_, err = gitlab.AddHook(project.ID, gitlabtest.Hook{URL: fmt.Sprintf("http://127.0.0.1:%d/webhook", webhooks), Token: "for-the-benchmark", JobEvents: true})
	require.NoError(b, err)

	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(b, err)
	defer log.Close()
	state := filepath.Join(dir, "state")
	cmd := exec.Command(bin, "serve")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(),
		"FIRERUNNER_STATE_DIR="+state, "FIRERUNNER_IMAGE_DIR="+images,
		"FIRERUNNER_SERVER_HOST=127.0.0.1", fmt.Sprintf("FIRERUNNER_SERVER_PORT=%d", webhooks), fmt.Sprintf("FIRERUNNER_SERVER_METRICS_PORT=%d", metrics),
		"FIRERUNNER_GITLAB_URL="+gitlab.URL(), "FIRERUNNER_GITLAB_GUEST_URL="+gitlab.ExternalURL(),
		"FIRERUNNER_GITLAB_TOKEN="+gitlab.CreateToken("create_runner", "manage_runner", "read_api"), "FIRERUNNER_GITLAB_WEBHOOK_SECRET=for-the-benchmark")
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			b.Errorf("the daemon: %v\n%s", err, text)
		}
	})
	ready := fmt.Sprintf("http://127.0.0.1:%d/readyz", webhooks)
	require.Eventually(b, func() bool {
		answer, err := http.Get(ready)
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	}, time.Minute, 50*time.Millisecond)
	store, err := sqlite.Open(b.Context(), sqlite.Config{Path: filepath.Join(state, "firerunner.db"), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(b, err)
	b.Cleanup(func() { _ = store.Close() })
	return site{gitlab: gitlab, project: project.ID, store: store}
}

// life waits until the runner of a job is gone and returns its moves.
func (s site) life(ctx context.Context, b *testing.B, jobID int64) (moves []firerunner.Event) {
	b.Helper()
	require.Eventually(b, func() bool {
		job, err := s.store.Job(ctx, jobID)
		if err != nil || job.RunnerID == "" {
			return false
		}
		moves, err = s.store.Events(ctx, firerunner.EventQuery{RunnerID: job.RunnerID, Kinds: []firerunner.EventKind{firerunner.EventMoved}})
		return err == nil && len(moves) > 0 && moves[len(moves)-1].To == firerunner.Gone
	}, time.Minute, 10*time.Millisecond)
	return moves
}

// freePort returns a port that a daemon can have, and have again: below those that the system gives to connections.
func freePort(b *testing.B) int {
	b.Helper()
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			require.NoError(b, l.Close())
			return port
		}
	}
	b.Fatal("no free port")
	return 0
}
