package sim_test

import (
	"slices"
	"sync"
	"testing"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/sim"
	"github.com/firerunner/firerunner/internal/store/storetest"
)

// The store of the simulation keeps every promise that a database has to keep.
func TestMemory(t *testing.T) {
	t.Parallel()
	storetest.Exercise(t, func(*testing.T) storetest.Subject {
		var mu sync.Mutex
		var all []firerunner.Step
		m := sim.NewMemory(func(_ []firerunner.Event, steps []firerunner.Step) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, steps...)
		})
		return storetest.Subject{Store: m, Steps: func() []firerunner.Step {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(all)
		}}
	})
}
