package flintlock

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// shellParses checks a script's syntax without running it.
func shellParses(t *testing.T, script string) {
	t.Helper()
	check := exec.CommandContext(t.Context(), "sh", "-n")
	check.Stdin = strings.NewReader(script)
	out, err := check.CombinedOutput()
	require.NoError(t, err, "%s\n%s", out, script)
}
