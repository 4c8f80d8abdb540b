package config

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Whoever adds a key has to decide when a change of it comes into force.
func TestEveryKeyIsLiveOrNot(t *testing.T) {
	t.Parallel()
	for _, l := range changeable() {
		require.NotEqual(t, among(l.key, live()), among(l.key, atStart()), "%s stands in both lists or in neither", l.key)
	}
	for _, name := range slices.Concat(live(), atStart()) {
		require.True(t, slices.ContainsFunc(changeable(), func(l leaf) bool { return among(l.key, []string{name}) }), "%s names no key", name)
	}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	old := Default()
	fresh := Default()
	fresh.Log.Level, fresh.Deadlines.Ready, fresh.Sweep.Interval = "debug", time.Hour, time.Second
	fresh.Server.Port, fresh.Driver = 1, "fake"
	fresh.Profiles = map[string]Profile{"docker": {Tags: []string{"docker"}}}
	fresh.Hosts = []Host{} // no change
	now, later := old.Changes(&fresh)
	require.ElementsMatch(t, []string{"log.level", "deadlines.ready", "sweep.interval", "profiles"}, now)
	require.ElementsMatch(t, []string{"server.port", "driver"}, later)

	next := old.With(&fresh)
	require.Equal(t, "debug", next.Log.Level)
	require.Equal(t, fresh.Profiles, next.Profiles)
	require.Equal(t, 8080, next.Server.Port)
	require.Equal(t, "qemu", next.Driver)
	require.Equal(t, "info", old.Log.Level, "the one in force is not touched")
	now, still := next.Changes(&fresh)
	require.Empty(t, now)
	require.ElementsMatch(t, later, still)
}

func TestFiles(t *testing.T) {
	t.Parallel()
	c := Default()
	c.GitLab.TokenFile, c.Flintlock.TokenFile, c.DatabaseFile = "/t", "/f", "/d"
	c.Hosts = []Host{{TokenFile: "/h"}, {}}
	require.ElementsMatch(t, []string{"/t", "/f", "/d", "/h"}, c.Files())
}
