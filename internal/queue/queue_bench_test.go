package queue_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/queue"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

// times collects durations and reports their percentiles as metrics of a benchmark.
type times struct {
	mu  sync.Mutex
	all []time.Duration
}

func (s *times) add(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, d)
}

func (s *times) report(b *testing.B, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.all)
	at := func(p int) float64 {
		if len(s.all) == 0 {
			return 0
		}
		return float64(s.all[min(len(s.all)-1, len(s.all)*p/1000)].Microseconds()) / 1000
	}
	b.ReportMetric(at(500), name+"-p50-ms")
	b.ReportMetric(at(990), name+"-p99-ms")
	b.ReportMetric(at(999), name+"-p99.9-ms")
}

// BenchmarkWebhookPath is what intake does for each webhook, 200 times a second as they come, while the queue runs the
// steps that follow and 50 others a second. update is how long a webhook waits for its durable commit; start is how long
// after the commit its step began; disk is, as a yardstick for the other two, how long the same disk needs meanwhile to
// write one page durably, with nothing of ours in between. Run it with -benchtime=4000x or so.
func BenchmarkWebhookPath(b *testing.B) {
	for _, size := range []int{1, 64} {
		b.Run(fmt.Sprint("group=", size), func(b *testing.B) { webhookPath(b, size) })
	}
}

func webhookPath(b *testing.B, groupSize int) {
	store, enqueuer := open(b, func(c *sqlite.Config) { c.GroupSize = groupSize })
	var update, begin, disk times
	var mu sync.Mutex
	committed := map[int64]time.Time{}
	start(b, queue.Config{DB: store.DB(), Enqueuer: enqueuer, Sole: true, Steps: steps(func(_ context.Context, s firerunner.Step) error {
		mu.Lock()
		at, ok := committed[s.JobID]
		mu.Unlock()
		if ok {
			begin.add(time.Since(at))
		}
		return nil
	})})
	ctx := b.Context()
	var all sync.WaitGroup
	stop := make(chan struct{})
	all.Go(func() {
		tick := time.NewTicker(time.Second / 50)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			if err := store.Update(ctx, func(tx firerunner.Tx) error {
				return tx.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepAdvance, RunnerID: fmt.Sprint("other", i)})
			}); err != nil {
				b.Error(err)
			}
		}
	})
	all.Go(func() { yardstick(b, &disk, stop) })
	tick := time.NewTicker(time.Second / 200)
	defer tick.Stop()
	var hooks sync.WaitGroup
	b.ResetTimer()
	for i := range b.N {
		<-tick.C
		hooks.Go(func() {
			id := int64(i) + 1
			mu.Lock()
			began := time.Now()
			committed[id] = began
			mu.Unlock()
			err := store.Update(ctx, func(tx firerunner.Tx) error {
				fresh, err := tx.TakeDelivery(ctx, fmt.Sprint("delivery", id), began)
				if err != nil || !fresh {
					return fmt.Errorf("fresh %t: %w", fresh, err)
				}
				if _, err := tx.SaveJob(ctx, firerunner.Job{
					ID: id, ProjectID: id % 50, Status: firerunner.JobPending, Tags: "firecracker-2cpu-4gb", Ours: true, SeenAt: began,
				}); err != nil {
					return err
				}
				if err := tx.AddEvent(ctx, firerunner.Event{At: began, Kind: firerunner.EventJobSeen, JobID: id, ProjectID: id % 50, Actor: "intake", Message: "pending"}); err != nil {
					return err
				}
				return tx.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepReadJob, ProjectID: id % 50, JobID: id})
			})
			now := time.Now()
			mu.Lock()
			committed[id] = now
			mu.Unlock()
			update.add(now.Sub(began))
			if err != nil {
				b.Error(err)
			}
		})
	}
	hooks.Wait()
	b.StopTimer()
	close(stop)
	all.Wait()
	require.Eventually(b, func() bool {
		begin.mu.Lock()
		defer begin.mu.Unlock()
		return len(begin.all) >= b.N
	}, 30*time.Second, 20*time.Millisecond)
	update.report(b, "update")
	begin.report(b, "start")
	disk.report(b, "disk")
}

// yardstick writes a page to a file and waits for the disk, 20 times a second.
func yardstick(b *testing.B, disk *times, stop chan struct{}) {
	f, err := os.Create(filepath.Join(b.TempDir(), "yardstick"))
	if err != nil {
		b.Error(err)
		return
	}
	defer f.Close()
	page := make([]byte, 4096)
	tick := time.NewTicker(time.Second / 20)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		began := time.Now()
		_, err := f.Write(page)
		if err := errors.Join(err, f.Sync()); err != nil {
			b.Error(err)
			return
		}
		disk.add(time.Since(began))
	}
}
