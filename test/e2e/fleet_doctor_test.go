package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/stretchr/testify/require"
)

// doctored has doctor look at one host of a fleet, whose daemon has ended: doctor needs its port. The host makes a
// microVM; the real agent in it says hello, finds that there is no work, and turns itself off.
func (s *site) doctored(f *fleet, host int) {
	s.t.Helper()
	s.stop()
	var text strings.Builder
	name := "- {name: h" + string(rune('1'+host)) + ","
	for line := range strings.Lines(readAll(s.configFile())) {
		if !strings.Contains(line, "- {name: h") || strings.Contains(line, name) {
			text.WriteString(line)
		}
	}
	file := filepath.Join(s.dir, "doctor.yaml")
	require.NoError(s.t, os.WriteFile(file, []byte(text.String()), 0o600))
	command := exec.Command(under.released, "doctor", "--deep", "--config", file, "--set", "deadlines.booting=8m")
	command.Dir, command.Env = s.dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir}
	out, err := command.CombinedOutput()
	found := string(out)
	require.NoError(s.t, err, found)
	require.Contains(s.t, found, "made a microVM of image default")
	require.Contains(s.t, found, "its guest called FireRunner at "+guestEndpoint)
	require.Contains(s.t, found, "its clock")
	require.Contains(s.t, found, "removed it in")
	require.Empty(s.t, f.hosts[host].VMs())
	require.Zero(s.t, f.hosts[host].Running())
}
