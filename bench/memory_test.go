package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkMemory is what the daemon holds while 10, 100 and 1,000 jobs run, each in a microVM whose guest is connected to
// it: VmRSS once it has nothing to do but follow them, and the most that it ever had, which is while they start. Run it with
// -benchtime 1x.
func BenchmarkMemory(b *testing.B) {
	const hosts = 8
	for _, live := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(live), func(b *testing.B) {
			s := newOutside(b, hosts, max(4, (live+hosts-1)/hosts))
			s.jobTime.Store(int64(time.Hour))
			s.start()
			b.Cleanup(s.kill)
			s.ready()
			idle := s.memory("VmRSS")
			b.ResetTimer()
			s.push(live)
			s.running(live)
			b.StopTimer()
			time.Sleep(quiet)
			b.ReportMetric(idle, "idle-MB")
			b.ReportMetric(s.memory("VmRSS"), "rss-MB")
			b.ReportMetric(s.memory("VmHWM"), "most-MB")
			b.ReportMetric(float64(live)/b.Elapsed().Minutes(), "starts/min")
		})
	}
}

// quiet is how long jobs run before memory is looked at: so long that each guest has given its sign of life.
const quiet = 20 * time.Second

// memory is a line of /proc/PID/status in MB.
func (s *outside) memory(name string) float64 {
	s.b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.daemon.Process.Pid))
	require.NoError(s.b, err)
	for in := bufio.NewScanner(bytes.NewReader(status)); in.Scan(); {
		if rest, ok := strings.CutPrefix(in.Text(), name+":"); ok {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			require.NoError(s.b, err)
			return float64(kib) * 1024 / 1e6
		}
	}
	s.b.Fatalf("/proc has no %s", name)
	return 0
}
