package peers_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/peers"
)

// TestSee: whoever reads the database sees who leads, serves, is stood in for and by whom, and is away since when.
func TestSee(t *testing.T) {
	bubble(t, func(t *testing.T, d *database) {
		see := func() map[string]peers.Seen {
			all, err := peers.See(t.Context(), d, d)
			require.NoError(t, err)
			by := map[string]peers.Seen{}
			for _, s := range all {
				by[s.Name] = s
			}
			return by
		}
		require.Empty(t, see())
		a := join(t, d, "a")
		wait(ttl)
		b := join(t, d, "b")
		for _, p := range []*process{a, b} {
			p.set(func() { p.left["fleet"] = true })
		}
		over(t, d, firerunner.Controller{Name: "local", Driver: "local"})
		died := time.Now()
		wait(time.Millisecond)
		seen := see()
		require.Equal(t, peers.Leads, seen["a"].State)
		require.Equal(t, peers.Serves, seen["b"].State)
		require.Equal(t, peers.Away, seen["local"].State)
		require.WithinDuration(t, died, seen["local"].Since, time.Millisecond)
		require.Empty(t, seen["local"].Holder)
		wait(time.Minute)
		require.Equal(t, peers.Away, see()["local"].State, "nobody can act for it")
		require.WithinDuration(t, died, see()["local"].Since, ttl, "since when is still known")

		over(t, d, firerunner.Controller{Name: "fleet", Driver: "fleet"})
		wait(ttl)
		seen = see()
		require.Equal(t, peers.StoodInFor, seen["fleet"].State)
		require.Contains(t, []string{"a", "b"}, seen["fleet"].By)
		require.Equal(t, peers.Leads, seen["a"].State, "its own lease is told from the others that it has")
		require.Equal(t, peers.Serves, seen["b"].State)
	})
}
