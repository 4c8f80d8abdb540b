package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestShort is the short form: two controllers on one PostgreSQL, scripted guests, everything dies.
func TestShort(t *testing.T) {
	t.Parallel()
	o := Short(1)
	o.Program, o.Dir, o.Tell = program(t), filepath.Join("..", "..", "build", "chaos", "test"), t.Output()
	r := Run(t.Context(), o)
	t.Logf("\n%s", r)
	require.Empty(t, r.Problems)
	require.Equal(t, o.Kills, r.Kills)
	require.Equal(t, o.VMKills, r.VMKills)
	require.NotZero(t, r.HooksLost)
	require.NotZero(t, r.Errors)
}

// program is bin/firerunner, or one that is built of this tree.
func program(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("FIRERUNNER_BIN"); bin != "" {
		return filepath.Join(bin, "firerunner")
	}
	to := filepath.Join(t.TempDir(), "firerunner")
	build := exec.Command("go", "build", "-o", to, "../../cmd/firerunner")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return to
}
