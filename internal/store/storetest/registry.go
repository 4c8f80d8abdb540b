package storetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// ExerciseRegistry runs the suite of firerunner.Registry; open returns a new, empty one for each test and closes it.
func ExerciseRegistry(t *testing.T, open func(t *testing.T) firerunner.Registry) {
	t.Run("Controllers", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		t.Cleanup(cancel)
		registry := open(t)
		read := func() []firerunner.Controller {
			all, err := registry.Controllers(ctx)
			require.NoError(t, err)
			return all
		}
		require.Empty(t, read())
		full := firerunner.Controller{
			Name: "b", Driver: "flintlock", Machine: awkward, Version: "1.2", Endpoint: "10.0.0.1:8443", Fingerprint: "sha256:00", StartedAt: noon(),
		}
		plain := firerunner.Controller{}
		require.NoError(t, registry.SaveController(ctx, full))
		require.NoError(t, registry.SaveController(ctx, plain))
		require.Equal(t, []firerunner.Controller{plain, full}, read(), "by name, and the only one of a site has none")
		full.Endpoint, full.StartedAt = "", noon().Add(time.Hour)
		require.NoError(t, registry.SaveController(ctx, full))
		require.Equal(t, []firerunner.Controller{plain, full}, read(), "a save replaces all of it")
		for range 2 {
			require.NoError(t, registry.ForgetController(ctx, ""))
		}
		require.Equal(t, []firerunner.Controller{full}, read())
	})
	t.Run("Installation", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		t.Cleanup(cancel)
		registry := open(t)
		_, err := registry.Installation(ctx, "")
		require.Equal(t, firerunner.NotFound, firerunner.CodeOf(err))
		const proposers = 8
		got := make([]string, proposers)
		var all sync.WaitGroup
		for i := range proposers {
			all.Go(func() {
				var err error
				if got[i], err = registry.Installation(ctx, fmt.Sprint("mark", i)); err != nil {
					t.Errorf("propose: %v", err)
				}
			})
		}
		all.Wait()
		for _, mark := range got {
			require.Equal(t, got[0], mark, "of several that propose one, the first wins")
		}
		mark, err := registry.Installation(ctx, "")
		require.NoError(t, err)
		require.Equal(t, got[0], mark)
	})
}
