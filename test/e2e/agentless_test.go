package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/internal/image"
)

// plainImage is a Debian with sshd and cloud-init, and nothing of ours in it.
const plainImage = "sshd"

// needPlainImage resolves it, and builds it where it is missing.
func needPlainImage(t *testing.T) {
	t.Helper()
	store := &image.Store{Dir: under.imageDir}
	_, err := store.Resolve(t.Context(), plainImage)
	if firerunner.CodeOf(err) == firerunner.NotFound {
		trimmed, absErr := filepath.Abs("testdata/sshd-image.sh")
		require.NoError(t, absErr)
		err = command(filepath.Dir(under.released), append(os.Environ(), "FIRERUNNER_IMAGE_DIR="+under.imageDir),
			under.released, "image", "build", "--name", plainImage, "--no-agent", "--sshd", "--add-package", "cloud-init,ifupdown", "--run", trimmed)
	}
	require.NoError(t, err)
}

// overSSH is the configuration of a profile for it. Jobs choose it by the tag plain.
func overSSH(t *testing.T) string {
	t.Helper()
	needPlainImage(t)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(under.released), "gitlab-runner"))
	require.NoError(t, err)
	sum := sha256.Sum256(text)
	dir, err := os.MkdirTemp("/tmp", "fr-") // the microVM's user can go there
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	program := filepath.Join(dir, "gitlab-runner")
	require.NoError(t, os.WriteFile(program, text, 0o644))
	return fmt.Sprintf(`
profiles:
  plain:
    tags: [plain]
    image: %s
    provision: ssh
    ssh: {gitlab_runner: %s, gitlab_runner_sha256: %s, connect_timeout: 8m, step_timeout: 2m}
`, plainImage, program, hex.EncodeToString(sum[:]))
}

// plainJob looks for what it must not find, and fails in the end with a status of its own.
const plainJob = `
plain:
  tags: [plain, firecracker-1cpu-1gb]
  variables: {GIT_STRATEGY: none}
  script:
    - |
      id -un; systemctl is-system-running >/dev/null; echo "init $(cat /proc/1/comm)"
      set +eo pipefail
      for at in /usr/sbin/fireguest /sbin/fireguest /usr/local/bin/fireguest; do test -e $at && echo "agent $at"; done
      ls /dev/vport* 2>/dev/null | sed 's/^/channel /'
      curl -sS -m 5 http://169.254.169.254/latest/user-data || echo "no metadata"
      cat /etc/ssh/ssh_host_ed25519_key 2>/dev/null || echo "no host key"
      sudo -n true 2>/dev/null || echo "no root"
      grep -rasl 'OPENSSH PRIVATE'' KEY' /etc/ssh /run /var/lib/cloud /var/log /root /home /tmp 2>/dev/null | sed 's/^/key in /'
      form='glrt''-[A-Za-z0-9_.-]{16}'
      for at in /proc/[0-9]*/cmdline /proc/[0-9]*/environ; do grep -aqE "$form" "$at" 2>/dev/null && echo "found in $at"; done
      grep -raslE "$form" /run /home /tmp /builds /cache 2>/dev/null | sed 's/^/found in /'
      ls -A /run/firerunner/private 2>/dev/null | sed 's/^/left there: /'
      curl -sS -m 10 -o /dev/null -w 'GitLab by name: %{http_code}\n' "$CI_SERVER_URL/"
      echo "looked around"
      exit 7
`

// TestSSH runs a job in a microVM that has nothing of ours in it: gitlab-runner comes over SSH, into a system that
// cloud-init has made ours.
func TestSSH(t *testing.T) {
	if under.skip != "" {
		t.Skip(under.skip)
	}
	s := newSite(t, options{config: overSSH(t)})
	began := time.Now()
	j := s.only(plainJob)
	t.Parallel() // only now: such a system takes long to boot, and does while others are tested
	s.says(j.ID, "looked around")
	done := s.finished(j.ID)
	t.Logf("from push to result: %v", time.Since(began).Round(100*time.Millisecond))
	trace := s.trace(j.ID)
	require.Equal(t, gitlabtest.StatusFailed, done.Status, trace)
	require.Equal(t, "script_failure", done.FailureReason)
	require.NotNil(t, done.ExitCode)
	require.Equal(t, 7, *done.ExitCode)
	for _, said := range []string{"\nci\n", "init systemd", "no metadata", "no host key", "no root", "GitLab by name: "} {
		require.Contains(t, trace, said)
	}
	for _, never := range []string{"agent /", "channel /", "key in ", "found in ", "left there: "} {
		require.NotContains(t, trace, never)
	}
	r := s.ended(s.row(j.ID).ID, firerunner.Failed, firerunner.ReasonJobDone)
	s.stepsSaid(r.ID, "over SSH after", "make the job's user: done in", "install gitlab-runner: done in", "write the configuration: done in", "start gitlab-runner: done in")
	require.NotContains(t, readAll(s.logFile()), "PRIVATE KEY")
}

// stepsSaid requires that a runner's events say each of the texts.
func (s *site) stepsSaid(id string, texts ...string) {
	s.t.Helper()
	var said strings.Builder
	for _, e := range s.events(firerunner.EventQuery{RunnerID: id}) {
		said.WriteString(e.Message + "\n")
	}
	for _, text := range texts {
		require.Contains(s.t, said.String(), text)
	}
	s.t.Log("\n" + said.String())
}
