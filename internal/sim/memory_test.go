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

// And every promise of one that several controllers share.
func TestMemoryShared(t *testing.T) {
	t.Parallel()
	t.Run("Leases", func(t *testing.T) {
		t.Parallel()
		storetest.ExerciseLeases(t, func(*testing.T) storetest.Leasing { return sim.NewMemory(nil) })
	})
	t.Run("Registry", func(t *testing.T) {
		t.Parallel()
		storetest.ExerciseRegistry(t, func(*testing.T) firerunner.Registry { return sim.NewMemory(nil) })
	})
}
