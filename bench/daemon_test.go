package bench

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/driver/fake"
	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/test/scripted"
)

const (
	doors      = "192.0.2.20:8443"                   // the guest endpoint, as guests call it
	gitlabName = "http://gitlab.firerunner.internal" // GitLab, as guests call it
	settled    = 5 * time.Minute                     // longer than anything takes
)

// outside is the daemon as people start it, a process of its own, so that what it uses can be told from what its world does.
// The world is in this process: GitLab, hosts that run flintlockd, and guests that call over TLS as the agent does.
type outside struct {
	b       *testing.B
	dir     string
	program string
	gitlab  *gitlabtest.Server
	project *gitlabtest.Project
	ports   struct{ webhooks, metrics, guests int }
	jobTime atomic.Int64                       // how long a job takes that begins now
	began   func(t fake.Task, letIn time.Time) // told of each job that begins, and when its guest had its start; may be nil
	daemon  *exec.Cmd
	ended   chan struct{} // closed once it has

	lastAttached time.Time // see attached
}

// newOutside starts the world, with hosts for as many microVMs, and no daemon yet.
func newOutside(b *testing.B, hosts, slots int) *outside {
	b.Helper()
	s := &outside{b: b, dir: b.TempDir()}
	s.program = filepath.Join(s.dir, "firerunner")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", s.program, "../cmd/firerunner")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(b, err, "%s", out)
	s.ports.webhooks, s.ports.metrics, s.ports.guests = freePort(b), freePort(b), freePort(b)

	s.gitlab, err = gitlabtest.Start(gitlabtest.Config{Dir: b.TempDir(), ExternalURL: gitlabName, TraceUpdateInterval: time.Minute})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, s.gitlab.Close()) })
	s.project, err = s.gitlab.CreateProject("group/app", map[string]string{"README.md": "hello\n"})
	require.NoError(b, err)
	_, err = s.gitlab.AddHook(s.project.ID, gitlabtest.Hook{
		URL: fmt.Sprintf("http://127.0.0.1:%d/webhook", s.ports.webhooks), SigningToken: signing, JobEvents: true,
	})
	require.NoError(b, err)
	token := s.gitlab.CreateToken("create_runner", "manage_runner", "read_api")

	var list strings.Builder
	for i := range hosts {
		srv, err := flintlocktest.Start(flintlocktest.Config{
			Dir: b.TempDir(), RetryDelay: 200 * time.Millisecond, VMM: flintlocktest.Scripted{Guest: s.guestsOf(i).Play},
		})
		require.NoError(b, err)
		b.Cleanup(func() { require.NoError(b, srv.Close()) })
		fmt.Fprintf(&list, "  - {name: h%d, endpoint: %q, vcpu: %d, memory_mb: %d, slots: %d}\n", i+1, srv.Addr(), slots, slots*1024, slots)
	}
	digest := "@sha256:" + strings.Repeat("0123456789abcdef", 4)
	require.NoError(b, os.WriteFile(s.file("config.yaml"), fmt.Appendf(nil, `
state_dir: %s
server: {host: 127.0.0.1, port: %d, metrics_port: %d}
gitlab: {url: %q, guest_url: %q, token: %q, signing_token: %q}
intake: {deliveries_per_second: 5000}
vm: {default_vcpu: 1, default_memory_mb: 1024, max_vcpu: 2, max_memory_mb: 2048}
scheduler: {overcommit_cpu: 1, queue_size: 10000}
deadlines: {placed: 8m, creating: 8m, booting: 8m, ready: 8m, job_timeout: 1h}
driver: flintlock
guest: {host: 127.0.0.1, port: %d, public_address: %q}
flintlock:
  tls: {insecure: true}
  kernel_image: registry.example.com/kernel%[10]s
  kernel_file: boot/vmlinux
  rootfs_image: registry.example.com/root%[10]s
hosts:
%[11]s`, s.file("state"), s.ports.webhooks, s.ports.metrics, s.gitlab.URL(), gitlabName, token, signing,
		s.ports.guests, doors, digest, &list), 0o600))
	return s
}

// guestsOf are the guests of a host, all of which call from the host's own address.
func (s *outside) guestsOf(host int) *scripted.Guests {
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(host+1))}}
	return &scripted.Guests{
		AsAgent: true,
		Runner: func() fake.Runner {
			letIn := time.Now()
			return fake.Runner{Poll: 500 * time.Millisecond, Again: time.Second, Work: func(t fake.Task) fake.Work {
				if s.began != nil {
					s.began(t, letIn)
				}
				return fake.Work{Time: time.Duration(s.jobTime.Load())}
			}}
		},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			to := strings.TrimPrefix(s.gitlab.URL(), "http://")
			if address == doors {
				to = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.ports.guests))
			}
			return from.DialContext(ctx, network, to)
		},
	}
}

func (s *outside) file(name string) string { return filepath.Join(s.dir, name) }

// start starts the daemon; its log goes on in the same file. ready waits for it.
func (s *outside) start(settings ...string) {
	s.b.Helper()
	log, err := os.OpenFile(s.file("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(s.b, err)
	defer log.Close()
	args := []string{"serve", "--config", s.file("config.yaml")}
	for _, setting := range settings {
		args = append(args, "--set", setting)
	}
	s.daemon, s.ended = exec.Command(s.program, args...), make(chan struct{})
	s.daemon.Stdout, s.daemon.Stderr = log, log
	require.NoError(s.b, s.daemon.Start())
	go func(d *exec.Cmd, ended chan struct{}) {
		defer close(ended)
		_ = d.Wait() // kill, or until, says what is to be said
	}(s.daemon, s.ended)
}

// kill ends the daemon as kill -9 does.
func (s *outside) kill() {
	s.b.Helper()
	_ = s.daemon.Process.Signal(syscall.SIGKILL)
	<-s.ended
}

// ready waits until the daemon says that it is ready.
func (s *outside) ready() {
	s.b.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	s.until("a daemon that is ready", func() bool {
		answer, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/readyz", s.ports.webhooks))
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
}

// push makes a pipeline of as many jobs.
func (s *outside) push(jobs int) {
	s.b.Helper()
	var ci strings.Builder
	for i := range jobs {
		fmt.Fprintf(&ci, "job%d:\n  tags: [%s]\n  script: [\"true\"]\n", i, size)
	}
	_, err := s.gitlab.Push(s.project.ID, map[string]string{".gitlab-ci.yml": ci.String()})
	require.NoError(s.b, err)
}

// running waits until so many jobs run.
func (s *outside) running(jobs int) {
	s.b.Helper()
	s.until(fmt.Sprint(jobs, " jobs that run"), func() bool {
		return len(s.gitlab.Jobs(gitlabtest.JobFilter{Statuses: []gitlabtest.Status{gitlabtest.StatusRunning}})) >= jobs
	})
}

// until asks again and again, because what is waited for is another process's.
func (s *outside) until(what string, done func() bool) {
	s.b.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(settled); !done(); {
		select {
		case <-tick.C:
			continue
		case <-s.ended:
		case <-end:
		}
		log, _ := os.ReadFile(s.file("log"))
		s.b.Fatalf("waited in vain for %s; the daemon's log ends with\n%s", what, log[max(0, len(log)-4000):])
	}
}
