package qemu

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/drivertest"
)

// TestDriver runs the common suite on real microVMs.
func TestDriver(t *testing.T) {
	needQEMU(t)
	image := drivertest.Image(t)
	drivertest.Exercise(t, drivertest.Subject{
		New: func(t *testing.T) firerunner.Driver {
			return newDriver(t, func(c *Config) { c.ProbeImage = &image })
		},
		Spec: func(_ *testing.T, id string) firerunner.MicroVMSpec { return newSpec(id, image) },
		Leftovers: func(t *testing.T, d firerunner.Driver, id string) []string {
			return leftovers(t, d.(*Driver), id)
		},
		Kill: func(t *testing.T, d firerunner.Driver, id string) {
			rec, ok := d.(*Driver).vms.readRecord(id)
			require.True(t, ok)
			require.NoError(t, unix.Kill(rec.PID, unix.SIGKILL))
			p, err := openProcess(rec.PID, rec.PIDStart)
			require.NoError(t, err)
			if p != nil {
				defer p.close()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				require.NoError(t, p.wait(ctx))
			}
		},
		Reopen: func(t *testing.T, d firerunner.Driver) firerunner.Driver {
			old := d.(*Driver)
			// The old one's goroutines end as in a crash; nothing else of it is told.
			require.NoError(t, old.Close())
			again, err := New(old.cfg)
			require.NoError(t, err)
			return again
		},
	})
}
