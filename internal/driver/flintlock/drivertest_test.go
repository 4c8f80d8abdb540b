package flintlock

import (
	"testing"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/drivertest"
)

func TestDriver(t *testing.T) {
	houses := map[firerunner.Driver]*house{}
	var last *house
	drivertest.Exercise(t, drivertest.Subject{
		New: func(t *testing.T) firerunner.Driver {
			last = newHouse(t, 2)
			houses[last.driver] = last
			return last.driver
		},
		Spec: func(_ *testing.T, id string) firerunner.MicroVMSpec { return last.spec(id, "h1") },
		Leftovers: func(_ *testing.T, d firerunner.Driver, id string) []string {
			return houses[d].leftovers(id)
		},
		Kill: func(_ *testing.T, d firerunner.Driver, id string) {
			houses[d].kill(houses[d].hosts[1], id)
		},
		Reopen: func(_ *testing.T, d firerunner.Driver) firerunner.Driver {
			h := houses[d]
			next := h.restart()
			houses[next] = h
			return next
		},
		Within: within,
	})
}
