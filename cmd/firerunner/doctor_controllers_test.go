package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/peers"
)

// look is what doctor finds of the controllers.
func (s several) look() []finding {
	s.Helper()
	cfg, err := (&app{Main: Main{Environ: s.environ}}).load(true)
	require.NoError(s, err)
	found := (&examination{cfg: cfg}).controllers(s.Context())
	for _, f := range found {
		require.Equal(s, f.Verdict == good, f.Remedy == "", "%+v", f)
	}
	return found
}

func TestDoctorControllers(t *testing.T) {
	t.Parallel()
	s := newSeveral(t)
	require.Equal(t, []finding{
		{Verdict: good, Found: "this machine's clock is as the database's, to 1s"},
		{Verdict: good, Found: "nobody serves this database now"},
	}, s.look())

	s.controller("", "flintlock", "m1/1", time.Hour)
	s.controller("b", "flintlock", "m2/2", time.Hour)
	s.version("b", buildVersion())
	_, ok, err := s.Acquire(t.Context(), firerunner.SiteLease, "m2/2", time.Hour)
	require.NoError(t, err)
	require.True(t, ok)
	mark := filepath.Join(s.dir, "state", controllerMark)
	require.NoError(t, os.MkdirAll(filepath.Dir(mark), 0o700))
	require.NoError(t, os.WriteFile(mark, []byte("m1/1\n"), 0o600))
	found := s.look()
	require.Len(t, found, 2)
	require.Equal(t, warn, found[1].Verdict)
	require.Equal(t, "(unnamed), b serve, b leads; their versions differ: 1.0, "+buildVersion(), found[1].Found)

	s.version("b", "1.0")
	require.Contains(t, s.look()[1].Found, "their versions differ: 1.0, "+buildVersion()+" (this program)")
	s.version("b", buildVersion())
	s.version("", buildVersion())
	require.Equal(t, finding{Verdict: good, Found: "(unnamed), b serve, b leads"}, s.look()[1])

	// Another process under our name: a folder that was copied, or two that are unnamed.
	require.NoError(t, os.WriteFile(mark, []byte("m9/9\n"), 0o600))
	found = s.look()
	require.Equal(t, fail, found[2].Verdict)
	require.Contains(t, found[2].Found, `another process serves as controller "": m1/1`)
	require.Contains(t, found[2].Remedy, "controller.name")
	require.NoError(t, os.Remove(mark))
	require.Equal(t, found, s.look(), "one that has not begun yet has no mark")
	require.NoError(t, os.WriteFile(mark, []byte("m1/1\n"), 0o600))

	s.controller("away", "qemu", "m3/3", time.Microsecond)
	require.Len(t, s.look(), 2, "nothing of it is left")
	s.runner(fleetRunner, "away")
	s.controller("stood", "flintlock", peers.StandIn("m2/2"), time.Hour)
	s.runner("runner0000000002", "nobody")
	found = s.look()
	require.Len(t, found, 5)
	for i, want := range []string{
		`controller "away" (machine-away) is away, and 1 live runners bear its name`,
		`controller "nobody" (not registered) is away, and 1 live runners bear its name`,
		`controller "stood" (machine-stood) is away, and b stands in for it: 0 live runners`,
	} {
		require.Equal(t, warn, found[2+i].Verdict)
		require.Equal(t, want, found[2+i].Found)
	}
}

func (s several) version(controller, version string) {
	s.Helper()
	all, err := s.Controllers(s.Context())
	require.NoError(s, err)
	for _, c := range all {
		if c.Name == controller {
			c.Version = version
			require.NoError(s, s.SaveController(s.Context(), c))
		}
	}
}

func TestClockOfSite(t *testing.T) {
	t.Parallel()
	for ahead, want := range map[time.Duration]string{
		0: "", siteClockLimit: "", -siteClockLimit: "",
		siteClockLimit + time.Second: "4s ahead of the database's", -time.Hour: "1h0m0s behind the database's",
	} {
		f := clockOfSite(ahead)
		require.Equal(t, want != "", f.Verdict == warn, "%+v", f)
		require.Contains(t, f.Found, want)
	}
}
