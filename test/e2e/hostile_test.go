package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/test/remains"
)

// TestHostileJob has a job take all that it can get: processes, memory and disk. Another microVM on the
// same host does its job meanwhile, and the host gives no more than was agreed.
func TestHostileJob(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{slots: 2})
	hostile := s.only(`hostile:
  script:
    - echo begun
    - |
      (dd if=/dev/zero of=/builds/fill bs=1M count=300) 2>/dev/null &
      bomb() { bomb | bomb & }; bomb
    - sleep 600
`)
	neighbour := s.only("neighbour:\n  script: ['n=0; while sleep 1; do n=$((n+1)); echo \"round $n.\"; done']\n")
	s.says(hostile.ID, "begun")
	r := s.row(hostile.ID)
	s.says(neighbour.ID, "round 1.")
	s.says(neighbour.ID, fmt.Sprintf("round %d.", 3+strings.Count(s.trace(neighbour.ID), "round ")))

	// The agreement: the guest's memory and 256 MiB for qemu and its shim; one processor for its one vCPU; 256
	// processes and threads.
	resident := s.residentMiB(r.ID)
	t.Logf("the hostile microVM holds %d MiB of the host", resident)
	require.Less(t, resident, 1024+256)
	limits := 0
	for file, most := range map[string]int64{"memory.limit_in_bytes": (1024 + 256) << 20, "memory.max": (1024 + 256) << 20, "pids.max": 256} {
		for _, dir := range s.cgroups() {
			if b, err := os.ReadFile(filepath.Join(dir, file)); err == nil && strings.HasSuffix(dir, r.ID) {
				n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
				require.NoError(t, err)
				require.LessOrEqual(t, n, most, file)
				limits++
			}
		}
	}
	if os.Geteuid() == 0 {
		require.Equal(t, 2, limits, "limits of memory and processes")
	}

	require.NoError(t, s.gitlab.CancelJob(neighbour.ID))
	require.Equal(t, gitlabtest.StatusCanceled, s.finished(neighbour.ID).Status)

	// It may be in no state to hear that it is cancelled, so the user insists.
	s.forceCancel(hostile.ID)
	s.ended(r.ID, firerunner.Cancelled, firerunner.ReasonJobCancelled)
	require.Equal(t, gitlabtest.StatusCanceled, s.finished(hostile.ID).Status)
}

// residentMiB is the memory of a microVM's processes.
func (s *site) residentMiB(id string) int {
	kib := 0
	for _, p := range remains.Processes(s.state("vms", id)) {
		for line := range strings.Lines(readAll(fmt.Sprintf("/proc/%d/status", p.PID))) {
			if size, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				n, _ := strconv.Atoi(strings.Fields(size)[0])
				kib += n
			}
		}
	}
	return kib >> 10
}

// forceCancel cancels a job without waiting for its runner: https://docs.gitlab.com/api/jobs/#cancel-a-job.
func (s *site) forceCancel(job int64) {
	s.t.Helper()
	url := fmt.Sprintf("%s/api/v4/projects/%d/jobs/%d/cancel?force=true", s.gitlab.URL(), s.project.ID, job)
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, url, nil)
	require.NoError(s.t, err)
	request.Header.Set("PRIVATE-TOKEN", s.gitlab.CreateToken("api"))
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	require.NoError(s.t, err)
	defer answer.Body.Close()
	require.Equal(s.t, http.StatusCreated, answer.StatusCode)
}
