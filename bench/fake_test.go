package bench

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// BenchmarkJobsPerMinute is how many jobs the control plane takes through their whole lives: b.N jobs of one pipeline
// become pending at once, each is announced by a webhook, gets a runner in GitLab, a microVM that boots in no time, runs
// for no time, and everything of it is removed. At most 64 microVMs exist at once, so the times from pending contain the
// wait for a place. Run it with -benchtime 500x or so.
func BenchmarkJobsPerMinute(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) { jobsPerMinute(b, onSQLite) })
	b.Run("postgres", func(b *testing.B) { jobsPerMinute(b, onPostgres) })
}

func jobsPerMinute(b *testing.B, on engine) { jobsBeside(b, on, func(*plane) {}) }

// jobsBeside is jobsPerMinute after something was done to the plane.
func jobsBeside(b *testing.B, on engine, prepare func(*plane)) {
	p := newPlane(b, on)
	prepare(p)
	_, err := p.gitlab.AddHook(p.project.ID, gitlabtest.Hook{URL: p.webhook, SigningToken: signing, JobEvents: true})
	require.NoError(b, err)
	var ci strings.Builder
	for i := range b.N {
		fmt.Fprintf(&ci, "job%d:\n  tags: [%s]\n  script: [\"true\"]\n", i, size)
	}
	used, ofDatabase := processorTime(b), p.databaseTime(b)
	b.ResetTimer()
	pipeline, err := p.gitlab.Push(p.project.ID, map[string]string{".gitlab-ci.yml": ci.String()})
	require.NoError(b, err)
	patience := time.After(5 * time.Minute)
	for done := false; !done; {
		select {
		case <-p.seen.changed:
		case <-patience:
			b.Fatal("the jobs are not done after 5 minutes")
		}
		p.seen.mu.Lock()
		n := len(p.seen.gone)
		if _, without := p.seen.gone[0]; without {
			n--
		}
		done = n >= b.N
		p.seen.mu.Unlock()
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Minutes(), "jobs/min")
	if p.database != nil {
		b.ReportMetric(float64((p.databaseTime(b)-ofDatabase).Microseconds())/1000/float64(b.N), "database-cpu-ms/job")
	}
	b.ReportMetric(float64((processorTime(b)-used).Microseconds())/1000/float64(b.N), "cpu-ms/job") // emulator and guests included

	p.seen.mu.Lock()
	defer p.seen.mu.Unlock()
	var running, gone []time.Duration
	for _, id := range pipeline.JobIDs {
		j, _ := p.gitlab.Job(id)
		require.Equal(b, gitlabtest.StatusSuccess, j.Status)
		require.Len(b, j.Handouts, 1)
		running = append(running, p.seen.running[id].Sub(j.QueuedAt))
		gone = append(gone, p.seen.gone[id].Sub(j.QueuedAt))
	}
	percentiles(b, running, "running")
	percentiles(b, gone, "gone")
}

// databaseTime is what the database's own processes have used so far.
func (p *plane) databaseTime(b *testing.B) time.Duration {
	b.Helper()
	if p.database == nil {
		return 0
	}
	used, err := p.database()
	require.NoError(b, err)
	return used
}

// processorTime is what this process has used so far: unlike the rate, it hardly depends on what else the machine does.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
