package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/test/remains"
)

// TestObserverFinds shows the observer what it must never find in a site, because one that finds nothing proves
// nothing.
func TestObserverFinds(t *testing.T) {
	t.Parallel()
	const secret = "a-word-that-nobody-may-see"
	dir := t.TempDir()
	o := &observer{secrets: map[string]string{secret: "the secret"}, findings: map[string]bool{}, searched: map[string]sight{}}

	sleep := exec.Command("sleep", "600")
	sleep.Dir = dir
	sleep.Env = []string{"WORD=" + secret}
	require.NoError(t, sleep.Start())
	t.Cleanup(func() {
		require.NoError(t, sleep.Process.Kill())
		_ = sleep.Wait() // killed
	})
	require.True(t, within(patience, func() bool {
		ps := remains.Processes(dir)
		return len(ps) == 1 && ps[0].PID == sleep.Process.Pid && ps[0].Name() == "sleep"
	}), "a process is known by its folder")
	o.search("environment of a process", remains.Processes(dir)[0].Environ)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "log"), []byte("x "+secret+" x"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "form"), []byte("glrt-"+strings.Repeat("k", 20)), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "open"), nil, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "fine"), []byte("nothing"), 0o600))
	o.lookAtFiles(dir)
	// What has changed is searched again, and everything is when there is a secret that nobody has looked for yet.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "fine"), []byte("nothing new, "+secret), 0o600))
	o.secrets["nothing"] = "a later secret"
	o.lookAtFiles(dir)
	require.Equal(t, []string{
		"a later secret is in the file " + filepath.Join(dir, "fine"),
		"everybody can read " + filepath.Join(dir, "open"),
		"something like a token (glrt-kkk...) is in the file " + filepath.Join(dir, "form"),
		"the secret is in the environment of a process",
		"the secret is in the file " + filepath.Join(dir, "fine"),
		"the secret is in the file " + filepath.Join(dir, "log"),
	}, o.found())
}
