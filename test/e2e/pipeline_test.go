package e2e

import (
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// everyday is a pipeline of what jobs do every day, and of one that looks around for what it should not find.
const everyday = `
stages: [build, test]
default: {tags: [firecracker-1cpu-1gb]}
clone:
  stage: build
  script:
    - git log --oneline -1
    - cat README.md src/deep/file.txt
    - git status --porcelain
    - echo "the secret is $WORD"
    - mkdir out && echo precious > out/made.txt
  artifacts: {paths: [out/]}
exit3:
  stage: test
  needs: []
  allow_failure: true
  variables: {GIT_STRATEGY: none}
  script: [echo about to fail, exit 3]
look:
  stage: test
  needs: [clone]
  variables: {GIT_STRATEGY: none}
  script:
    - cat out/made.txt
    - id -un
    - set +eo pipefail
    - |
      probe() { if timeout 5 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null; then echo "open $1 $2"; else echo "shut $1 $2"; fi; }
      for at in 10.42.0.1 10.42.0.3 127.0.0.1 10.42.0.10 10.42.0.11 $HOST_ADDRESSES; do probe $at $HOST_PORT; done
      probe 10.42.0.1 22; probe 10.42.0.1 80
      probe 169.254.169.254 80; probe 10.0.0.1 80; probe 172.17.0.1 80; probe 192.168.1.1 443; probe 100.64.0.1 80
      probe gitlab.firerunner.internal 80
      curl -sS -m 10 -o /dev/null -w 'GitLab by name: %{http_code}\n' "$CI_SERVER_URL/"
      curl -sS -m 10 http://gitlab.firerunner.internal:$HOST_PORT/ || echo "only that port"
    - |
      form='glrt''-[A-Za-z0-9_.-]{16}'
      echo 'glrt''-put-there-to-be-found' > /tmp/control
      for at in /proc/[0-9]*/cmdline /proc/[0-9]*/environ; do grep -aqE "$form" "$at" 2>/dev/null && echo "found in $at"; done
      grep -raslE "$form" /run /etc /root /home /var /tmp /builds /cache /dev/shm /opt /srv 2>/dev/null | sed 's/^/found in /'
      ls -A /run/firerunner/private 2>/dev/null | sed 's/^/left there: /'
      test -r /dev/vda && echo "the disk can be read" || echo "the disk cannot be read"
      ls /dev/vport* 2>/dev/null && { head -c 1 /dev/vport*p* >/dev/null 2>&1 && echo "the channel can be read" || echo "the channel cannot be read"; }
      echo "search is over"
`

// TestPipeline runs everyday jobs in one pipeline, two at a time, and then looks at each.
func TestPipeline(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{slots: 2, files: map[string]string{"src/deep/file.txt": "deep\n"}})
	const word = "Schnurrbart1977"
	listening, reached := hostService(t)
	for _, v := range []gitlabtest.Variable{
		{Key: "WORD", Value: word, Masked: true},
		{Key: "HOST_PORT", Value: fmt.Sprint(listening)},
		{Key: "HOST_ADDRESSES", Value: strings.Join(hostAddresses(t), " ")},
	} {
		require.NoError(t, s.gitlab.SetVariable(s.project.ID, v))
	}
	p := s.push(everyday)
	ctx, cancel := s.patiently()
	defer cancel()
	done, err := s.gitlab.WaitPipeline(ctx, p.ID)
	require.NoError(t, err)
	trace := func(name string) string { return s.trace(s.job(p, name).ID) }

	t.Run("Success", func(t *testing.T) {
		require.Equal(t, gitlabtest.StatusSuccess, done.Status)
		j := s.job(p, "clone")
		require.Equal(t, gitlabtest.StatusSuccess, j.Status, trace("clone"))
		require.Contains(t, trace("clone"), "Job succeeded")
		r := s.ended(s.row(j.ID).ID, firerunner.Succeeded, firerunner.ReasonJobDone)
		require.Equal(t, j.RunnerID, r.GitLabID)
	})
	t.Run("ScriptFailureWithExitCode3", func(t *testing.T) {
		j := s.job(p, "exit3")
		require.Equal(t, gitlabtest.StatusFailed, j.Status)
		require.Equal(t, "script_failure", j.FailureReason)
		require.NotNil(t, j.ExitCode)
		require.Equal(t, 3, *j.ExitCode)
		s.ended(s.row(j.ID).ID, firerunner.Failed, firerunner.ReasonJobDone)
	})
	t.Run("GitClone", func(t *testing.T) {
		j := s.job(p, "clone")
		require.Contains(t, trace("clone"), j.SHA[:7])
		require.Contains(t, trace("clone"), "# A repository for tests")
		require.Contains(t, trace("clone"), "\ndeep\n")
	})
	t.Run("ArtifactsBetweenJobs", func(t *testing.T) {
		require.Len(t, s.job(p, "clone").Artifacts, 1)
		require.Contains(t, trace("look"), "\nprecious\n")
		require.NotEqual(t, s.row(s.job(p, "clone").ID).ID, s.row(s.job(p, "look").ID).ID)
	})
	t.Run("NotRoot", func(t *testing.T) { require.Contains(t, trace("look"), "\nci\n") })
	t.Run("MaskedVariable", func(t *testing.T) {
		require.Contains(t, trace("clone"), "the secret is [MASKED]")
		require.NotContains(t, trace("clone"), word)
	})
	t.Run("GuestNetwork", func(t *testing.T) {
		text := trace("look")
		require.Equal(t, gitlabtest.StatusSuccess, s.job(p, "look").Status, text)
		require.Contains(t, text, "\nopen gitlab.firerunner.internal 80\n")
		require.Equal(t, 1, strings.Count(text, "\nopen "), "the guest reaches what it must not:\n%s", text)
		require.GreaterOrEqual(t, strings.Count(text, "\nshut "), 12)
		require.Contains(t, text, "GitLab by name: ")
		require.NotContains(t, text, "GitLab by name: 000")
		require.Contains(t, text, "only that port")
		require.Zero(t, reached.Load(), "the guest has reached a service of the host")
	})
	t.Run("NoTokenWithinReach", func(t *testing.T) {
		text := trace("look")
		require.Contains(t, text, "search is over")
		require.Contains(t, text, "\nfound in /tmp/control\n", "the search finds nothing at all")
		require.Equal(t, 1, strings.Count(text, "\nfound in "), text)
		for _, bad := range []string{"\nleft there", "the disk can be read\n", "the channel can be read\n"} {
			require.NotContains(t, text, bad)
		}
	})
	s.quiet()
}

// hostService listens on every address of the host and counts who comes.
func hostService(t *testing.T) (port int, reached *atomic.Int64) {
	t.Helper()
	reached = &atomic.Int64{}
	l, err := net.Listen("tcp", ":0")
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			reached.Add(1)
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	return l.Addr().(*net.TCPAddr).Port, reached
}

// hostAddresses returns the host's own IPv4 addresses, loopback left out: in a guest that is the guest.
func hostAddresses(t *testing.T) []string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	require.NoError(t, err)
	var found []string
	for _, a := range all {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			found = append(found, ip.IP.String())
		}
	}
	return found
}
