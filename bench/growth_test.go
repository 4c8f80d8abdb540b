package bench

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// BenchmarkGrowth is JobsPerMinute beside 10 to 10,000 runners that have been running for a while, on a host of their own
// and of the same project: what a job's life costs where many others go on.
func BenchmarkGrowth(b *testing.B) {
	for _, live := range []int{10, 100, 1000, 10_000} {
		b.Run(fmt.Sprint(live), func(b *testing.B) {
			jobsBeside(b, onSQLite, func(p *plane) { p.occupy(b, live) })
		})
	}
}

// occupy writes down runners that run, as many as were asked for. Control was started before, so it takes none of them up:
// they have no microVM.
func (p *plane) occupy(b *testing.B, live int) {
	b.Helper()
	const atOnce = 500
	ctx := context.Background()
	now := time.Now()
	require.NoError(b, p.store.Update(ctx, func(tx firerunner.Tx) error {
		return tx.SaveHost(ctx, firerunner.Host{Name: "full", Driver: "fake", VCPUs: live, MemoryMiB: live * 1024, Slots: live})
	}))
	for done := 0; done < live; {
		next := min(done+atOnce, live)
		require.NoError(b, p.store.Update(ctx, func(tx firerunner.Tx) error {
			for ; done < next; done++ {
				demand := firerunner.Demand{ProjectID: p.project.ID, Tags: firerunner.NewTagSet(fmt.Sprint("kind", done%100), size)}
				r := firerunner.NewRunner(fmt.Sprintf("0long%d", done), demand, now)
				r.Profile, r.Size, r.State, r.Host = firerunner.DefaultProfile, firerunner.Size{VCPUs: 1, MemoryMiB: 1024}, firerunner.Running, "full"
				r.GitLabID, r.JobID, r.Deadline = int64(1_000_000+done), int64(1_000_000+done), now.Add(24*time.Hour)
				if err := tx.CreateRunner(ctx, r); err != nil {
					return err
				}
			}
			return nil
		}))
	}
}
