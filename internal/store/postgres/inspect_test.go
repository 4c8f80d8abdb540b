package postgres_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/postgres"
	"github.com/firerunner/firerunner/internal/store/postgrestest"
)

// TestAhead: an answer that took its time is no difference of clocks.
func TestAhead(t *testing.T) {
	t.Parallel()
	asked := time.Unix(1_800_000_000, 0)
	answered := asked.Add(4 * time.Second)
	for theirs, want := range map[time.Duration]time.Duration{
		0: 0, 2 * time.Second: 0, 4 * time.Second: 0,
		5 * time.Second: -time.Second, -time.Minute: time.Minute, time.Hour: 4*time.Second - time.Hour,
	} {
		require.Equal(t, want, postgres.Ahead(asked, answered, asked.Add(theirs)), "%v", theirs)
	}
	seen, err := postgres.Inspect(t.Context(), postgres.Config{URL: firerunner.Secret(postgrestest.New(t))})
	require.NoError(t, err)
	require.Less(t, seen.Ahead.Abs(), time.Second, "it is the same clock")
}
