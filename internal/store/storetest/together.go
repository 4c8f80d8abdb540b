package storetest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// Together runs n Updates so that all others wait while the first is inside, and come in their order. waiting is how many
// wait for their turn in the store.
func Together(t *testing.T, store firerunner.Store, waiting func() int, n int, do func(i int, tx firerunner.Tx) error) []error {
	t.Helper()
	errs := make([]error, n)
	inside, release := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		errs[0] = store.Update(context.Background(), func(tx firerunner.Tx) error {
			close(inside)
			<-release
			return do(0, tx)
		})
	})
	<-inside
	for i := 1; i < n; i++ {
		all.Go(func() {
			errs[i] = store.Update(context.Background(), func(tx firerunner.Tx) error { return do(i, tx) })
		})
		require.Eventually(t, func() bool { return waiting() == i }, 10*time.Second, 100*time.Microsecond)
	}
	close(release)
	all.Wait()
	return errs
}
