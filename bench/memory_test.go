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
// it: the most of VmRSS in a minute in which it has nothing to do but follow them, and the most that it ever had, which is
// while they start. Run it with -benchtime 1x.
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
			most := 0.0
			for range watched {
				time.Sleep(time.Second)
				most = max(most, s.memory("VmRSS"))
			}
			b.ReportMetric(idle, "idle-MB")
			b.ReportMetric(most, "rss-MB")
			b.ReportMetric(s.memory("VmHWM"), "most-MB")
			b.ReportMetric(float64(live)/b.Elapsed().Minutes(), "starts/min")
		})
	}
}

// Jobs run, and then steps go on for half a minute, about each: that its credential is sealed, that it was read. Memory is
// looked at after that, each second for a minute in which every guest gives its signs of life, and the most of it counts.
const (
	quiet   = 60 * time.Second
	watched = 60
)

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
