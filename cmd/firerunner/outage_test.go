package main

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/internal/store/postgrestest"
)

// ready is the status of /readyz, asked anew.
func (p *plant) ready() int {
	p.t.Helper()
	answer := httptest.NewRecorder()
	p.daemon.readiness().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	return answer.Code
}

// outage is a time in which the database cannot write: webhooks are answered 503 and nothing else but 2xx for what is
// written down; a job that runs goes on; and when it is over, all goes on by itself.
func (p *plant) outage(begin, end func()) {
	t := p.t
	t.Helper()
	jobs := p.push(1)
	p.eventually("a running job", func() bool {
		return len(p.runners(firerunner.RunnerQuery{States: []firerunner.State{firerunner.Running}})) == 1
	})
	begin()
	hooks := 0
	p.eventually("a webhook that cannot be written down", func() bool {
		hooks++
		status := p.webhook("hush", fmt.Sprint("outage", hooks))
		require.Contains(t, []int{200, 201, 202, 503}, status)
		return status == 503
	})
	jobs = append(jobs, p.push(2)...) // nobody hears of them
	_, err := p.gitlab.WaitDelivery(t.Context(), p.hook.ID, func(d gitlabtest.HookDelivery) bool { return d.JobID == jobs[2] && d.Status == 503 })
	require.NoError(t, err)
	require.Equal(t, 503, p.ready())
	ctx, cancel := context.WithTimeout(t.Context(), plantPatience)
	defer cancel()
	first, err := p.gitlab.WaitJob(ctx, jobs[0]) // it runs to its end meanwhile
	require.NoError(t, err)
	require.Equal(t, gitlabtest.StatusSuccess, first.Status)
	require.Equal(t, 503, p.webhook("hush", "still"))

	end()
	p.succeed(jobs)
	p.eventually("nothing left", func() bool { return len(p.runners(firerunner.RunnerQuery{Live: true})) == 0 })
	require.Empty(t, p.killed())
	require.Equal(t, 2, p.webhook("hush", "again")/100)
	require.Equal(t, 200, p.ready())
	for _, r := range p.runners(firerunner.RunnerQuery{}) {
		require.Contains(t, []firerunner.Outcome{firerunner.Succeeded, firerunner.Cancelled}, r.Outcome, r.Message)
	}
	require.Empty(t, p.gitlab.Runners())
}

const outageSettings = "sweep: {interval: 500ms}\nscheduler: {worker_count: 3, vcpus: 8, memory_mb: 8192}\n"

// The disk of the database is full for a while.
func TestDatabaseDiskFull(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	p := newPlant(t, 2*time.Second, outageSettings)
	state := filepath.Join(p.dir, "state")
	require.NoError(t, os.Mkdir(state, 0o711))
	require.NoError(t, unix.Mount("firerunner-test", state, "tmpfs", 0, "size=16m"))
	t.Cleanup(func() {
		p.stop()
		require.NoError(t, unix.Unmount(state, 0))
	})
	p.start()
	ballast := filepath.Join(state, "ballast")
	p.outage(func() {
		f, err := os.Create(ballast)
		require.NoError(t, err)
		defer f.Close()
		for size := 1 << 20; size > 0; size /= 2 {
			for {
				if n, err := f.Write(make([]byte, size)); err != nil || n < size {
					require.ErrorIs(t, err, unix.ENOSPC)
					break
				}
			}
		}
	}, func() { require.NoError(t, os.Remove(ballast)) })
}

// Somebody has the SQLite file locked for a while: a copy that is being made, say.
func TestDatabaseLocked(t *testing.T) {
	t.Parallel()
	p := newPlant(t, 2*time.Second, outageSettings)
	p.start()
	var lock *sql.Conn
	p.outage(func() {
		db, err := sql.Open("sqlite", "file:"+filepath.Join(p.dir, "state", "firerunner.db")+"?_pragma=busy_timeout(10000)")
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, db.Close()) })
		lock, err = db.Conn(t.Context())
		require.NoError(t, err)
		_, err = lock.ExecContext(t.Context(), "BEGIN IMMEDIATE")
		require.NoError(t, err)
	}, func() {
		_, err := lock.ExecContext(t.Context(), "ROLLBACK")
		require.NoError(t, err)
		require.NoError(t, lock.Close())
	})
}

// PostgreSQL ends as in a power failure and is away for a while.
func TestPostgresAway(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t, postgrestest.Options{Durable: true})
	p := newPlant(t, 2*time.Second, outageSettings+fmt.Sprintf("database: %q\n", server.URL("postgres")))
	p.start()
	p.outage(func() { require.NoError(t, server.Pause(t.Context())) }, func() { require.NoError(t, server.Resume(t.Context())) })
}

// GitLab's API is away for a while: webhooks are still written down, the job that runs ends well, and when it is back the
// sweep picks everything up.
func TestGitLabAway(t *testing.T) {
	t.Parallel()
	p := newPlant(t, 2*time.Second, outageSettings)
	p.start()
	jobs := p.push(1)
	p.eventually("a running job", func() bool {
		return len(p.runners(firerunner.RunnerQuery{States: []firerunner.State{firerunner.Running}})) == 1
	})
	for _, path := range []string{"projects/**", "user/**", "runners/**", "runners", "metadata", "version", "personal_access_tokens/**"} {
		_, err := p.gitlab.AddFault(gitlabtest.Fault{Action: gitlabtest.FaultStatus, Status: 502, Path: "/api/v4/" + path})
		require.NoError(t, err)
	}
	jobs = append(jobs, p.push(2)...)
	_, err := p.gitlab.WaitDelivery(t.Context(), p.hook.ID, func(d gitlabtest.HookDelivery) bool { return d.JobID == jobs[2] && d.Status/100 == 2 })
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), plantPatience)
	defer cancel()
	first, err := p.gitlab.WaitJob(ctx, jobs[0])
	require.NoError(t, err)
	require.Equal(t, gitlabtest.StatusSuccess, first.Status)
	p.eventually("sweeps that fail", func() bool { return strings.Count(p.log.String(), "task=sweep") >= 3 })
	require.Equal(t, 503, p.ready())
	require.Empty(t, p.killed())

	p.gitlab.ClearFaults()
	p.succeed(jobs)
	p.eventually("nothing left", func() bool { return len(p.runners(firerunner.RunnerQuery{Live: true})) == 0 })
	require.Empty(t, p.killed())
	require.Empty(t, p.gitlab.Runners())
	require.Equal(t, 200, p.ready())
}

// A machine with too little room takes no work, and says so to whoever asks why a job waits.
func TestTooLittleRoom(t *testing.T) {
	t.Parallel()
	p := newPlant(t, 0, outageSettings)
	p.set = []string{"driver=qemu", "scheduler.min_free_disk_mb=1000000000"}
	p.start()
	why := "less than 1000000000 MiB free in " + filepath.Join(p.dir, "state", "vms") + " (make room there, or lower scheduler.min_free_disk_mb)"
	p.eventually("a host in trouble", func() bool {
		hosts, err := p.daemon.store.Hosts(t.Context())
		require.NoError(t, err)
		return hosts[0].Trouble == why
	})
	p.push(1)
	p.eventually("a runner that waits, and why", func() bool {
		waiting := p.runners(firerunner.RunnerQuery{})
		return len(waiting) == 1 && waiting[0].State == firerunner.Queued && waiting[0].Message == "1 host: in trouble: "+why
	})
	status, out, said := p.run("hosts", "list")
	require.Zero(t, status, said)
	require.Contains(t, out, "trouble")
	require.Contains(t, out, why)
}
