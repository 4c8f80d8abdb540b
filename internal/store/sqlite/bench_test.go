package sqlite_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

// BenchmarkUpdate is a durable transaction of one delivery and one event, by one caller and by 64 at once, alone and with a
// shared commit.
func BenchmarkUpdate(b *testing.B) {
	for _, size := range []int{1, 64} {
		for _, callers := range []int{1, 64} {
			b.Run(fmt.Sprintf("group=%d/callers=%d", size, callers), func(b *testing.B) {
				store := open(b, sqlite.Config{GroupSize: size})
				var n atomic.Int64
				b.SetParallelism(max(1, callers/2))
				update := func() {
					ctx := context.Background()
					if err := store.Update(ctx, func(tx firerunner.Tx) error {
						if _, err := tx.TakeDelivery(ctx, fmt.Sprint(n.Add(1)), noon); err != nil {
							return err
						}
						return addEvent(ctx, tx, 1)
					}); err != nil {
						b.Error(err)
					}
				}
				b.ResetTimer()
				if callers == 1 {
					for b.Loop() {
						update()
					}
					return
				}
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						update()
					}
				})
			})
		}
	}
}

// BenchmarkRead is what a step reads most: the live runners of one demand, among a hundred thousand that are gone.
func BenchmarkRead(b *testing.B) {
	store := open(b, sqlite.Config{})
	ctx := b.Context()
	demand := firerunner.Demand{ProjectID: 7, Tags: "a"}
	for i := range 100 {
		require.NoError(b, store.Update(ctx, func(tx firerunner.Tx) error {
			for k := range 1000 {
				r := firerunner.NewRunner(fmt.Sprintf("runner%03d%04d", i, k), firerunner.Demand{ProjectID: int64(k % 50), Tags: "a"}, noon)
				if r.State = firerunner.Gone; k%100 == 7 {
					r.State = firerunner.Running
				}
				if err := tx.CreateRunner(ctx, r); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	b.ResetTimer()
	for b.Loop() {
		found, err := store.Runners(ctx, firerunner.RunnerQuery{Live: true, Demand: &demand})
		require.NoError(b, err)
		require.Len(b, found, 1000)
	}
}
