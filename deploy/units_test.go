package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var program = regexp.MustCompile(`(?m)^(Exec[A-Za-z]+=)/\S+`)

// TestUnits has systemd read the units as they are shipped: an option that it does not know is ignored with a warning that
// nobody reads, and so would the protection be that it stands for.
func TestUnits(t *testing.T) {
	t.Parallel()
	shipped, err := filepath.Glob("*.service")
	require.NoError(t, err)
	require.NotEmpty(t, shipped)
	dir := t.TempDir()
	var units []string
	for _, name := range shipped {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		if strings.Contains(string(text), "/firerunner serve") || strings.Contains(string(text), "/flintlockd run") {
			require.Contains(t, string(text), "\nKillMode=process\n", "%s: a restart would end every microVM", name)
		}
		// The programs are not on this machine, and systemd wants to see them.
		unit := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(unit, program.ReplaceAll(text, []byte("${1}/bin/true")), 0o600))
		units = append(units, unit)
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		require.NotEqual(t, "true", os.Getenv("CI"), "CI never skips: apt-get install systemd")
		t.Skip("systemd reads its units itself: apt-get install systemd")
	}
	check := exec.Command(analyze, append([]string{"verify", "--man=no"}, units...)...)
	check.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=warning")
	out, err := check.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, line := range strings.Split(string(out), "\n") {
		require.NotContains(t, line, dir, "systemd has something to say") // it speaks of this machine's own units too
	}
}
