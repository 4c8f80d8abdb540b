package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabrunner"
	"github.com/firerunner/firerunner/internal/guest"
)

// life is an agent's life outside a microVM: a directory for its root, a shell script for gitlab-runner, and a
// real host at the other end of a pipe.
type life struct {
	root    string
	done    []string // what was done to the system, in order
	reports chan firerunner.GuestReport
	orders  chan firerunner.GuestOrder
	end     chan error
	command command
}

func live(t *testing.T, start firerunner.GuestStart, script string, change func(*agent)) *life {
	t.Helper()
	l := &life{
		root: t.TempDir(), reports: make(chan firerunner.GuestReport, 200), orders: make(chan firerunner.GuestOrder, 2), end: make(chan error, 1),
	}
	require.NoError(t, os.MkdirAll(l.root+"/etc", 0o755))
	require.NoError(t, os.WriteFile(l.root+"/etc/passwd", []byte("ci:x:1000:1000::/home/ci:/bin/bash\n"), 0o644))
	near, far := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- guest.Serve(ctx, far, start, func(r firerunner.GuestReport) { l.reports <- r }, l.orders)
	}()
	channel := guest.Dial(near, hello(), nil)
	t.Cleanup(func() { _ = channel.Close(); cancel(); <-served })
	note := func(what string) { l.done = append(l.done, what) }
	a := &agent{
		root: l.root, con: &console{w: &consoleLog{}, uptime: uptime}, channel: channel, runner: "/bin/sh",
		startWait: 5 * time.Second, flushWait: 5 * time.Second,
		limits: limits{idleGrace: 5 * time.Second, jobGrace: 5 * time.Second, overshoot: time.Minute, drain: 5 * time.Second},
		system: system{
			addEntropy: func(b []byte) error { note("entropy"); return nil },
			setClock:   func(time.Time) error { note("clock"); return nil },
			hostname:   func(name string) error { note("hostname " + name); return nil },
			network:    func(n firerunner.GuestNetwork) error { note("network " + n.Address); return nil },
			chown:      func(path string, uid, gid int) error { return nil },
			start: func(c command) (*process, error) {
				l.command = c
				cmd := exec.Command("/bin/sh", "-c", script)
				cmd.Env = append(os.Environ(), "ROOT="+l.root)
				cmd.Stdout, cmd.Stderr = c.output, c.output
				if err := cmd.Start(); err != nil {
					return nil, err
				}
				ended := make(chan status, 1)
				go func() {
					_ = cmd.Wait()
					ended <- statusOf(cmd.ProcessState.Sys().(syscall.WaitStatus))
				}()
				return &process{signal: func(s syscall.Signal) error { return cmd.Process.Signal(s) }, ended: ended}, nil
			},
		},
	}
	if change != nil {
		change(a)
	}
	go func() { l.end <- a.run(context.Background()) }()
	return l
}

// story is what was reported, in order, without what depends on time.
func (l *life) story(t *testing.T) []firerunner.GuestReport {
	t.Helper()
	var all []firerunner.GuestReport
	for {
		select {
		case r := <-l.reports:
			r.At = time.Time{}
			if r.Kind == firerunner.ReportHello {
				r.Message = ""
			}
			all = append(all, r)
		default:
			return all
		}
	}
}

func lifeStart() firerunner.GuestStart {
	return firerunner.GuestStart{
		GitLabURL: "http://gitlab.test", Token: testToken, CA: "PEM", Name: "r-1", MachineID: strings.Repeat("ab", 16), Hostname: "fr-1",
		Network:     firerunner.GuestNetwork{Address: "10.42.0.2/24", Gateway: "10.42.0.1", DNS: "10.42.0.1"},
		WaitTimeout: time.Minute,
	}
}

const (
	sayTook = `echo '{"job":7,"level":"info","msg":"Checking for jobs... received"}' >&2; `
	sayDone = `echo '{"job":7,"level":"info","msg":"Job succeeded"}' >&2; `
)

func TestAgentOK(t *testing.T) {
	l := live(t, lifeStart(), `
		grep -q `+testToken+` $ROOT/run/firerunner/private/config.toml || echo no token
		`+sayTook+`
		n=0; while [ -e $ROOT/run/firerunner/private ] && [ $n -lt 500 ]; do sleep 0.01; n=$((n+1)); done
		[ ! -e $ROOT/run/firerunner/private ] || echo the token is still there
		`+sayDone, nil)
	require.NoError(t, <-l.end)
	require.Equal(t, []firerunner.GuestReport{
		{Kind: firerunner.ReportHello},
		{Kind: firerunner.ReportStarted},
		{Kind: firerunner.ReportTookJob, JobID: 7},
		{Kind: firerunner.ReportJobDone, JobID: 7, Success: true},
		{Kind: firerunner.ReportRunnerExited},
	}, l.story(t))
	require.Equal(t, []string{"entropy", "clock", "hostname fr-1", "network 10.42.0.2/24"}, l.done)
	require.Equal(t, uint32(1000), l.command.uid)
	require.False(t, l.command.privileges)
	require.NotContains(t, strings.Join(append(l.command.env, l.command.args...), " "), testToken)
	for path, want := range map[string]string{
		"/etc/machine-id": strings.Repeat("ab", 16) + "\n", "/etc/hostname": "fr-1\n", "/etc/resolv.conf": "nameserver 10.42.0.1\n", gitlabrunner.CAFile: "PEM",
	} {
		text, err := os.ReadFile(filepath.Join(l.root, path))
		require.NoError(t, err)
		require.Equal(t, want, string(text))
	}
}

func TestAgentNotice(t *testing.T) {
	l := live(t, lifeStart(), `
		for n in 1 2 3 3 3; do echo "note $n" > $ROOT/run/firerunner/notice; done
		while [ ! -e $ROOT/go ]; do sleep 0.01; done
		echo '{"level":"warning","msg":"slow"}' >&2; echo '{"level":"warning","msg":"slow"}' >&2`, func(a *agent) {
		require.NoError(t, os.MkdirAll(a.root+"/etc/sudoers.d", 0o755))
		require.NoError(t, os.WriteFile(a.root+"/etc/sudoers.d/firerunner", nil, 0o644))
	})
	var notes []string
	for len(notes) < 3 {
		if r := <-l.reports; r.Kind == firerunner.ReportNotice {
			notes = append(notes, r.Message)
		}
	}
	require.Equal(t, []string{"note 1", "note 2", "note 3"}, notes)
	require.NoError(t, os.WriteFile(l.root+"/go", nil, 0o644))
	require.NoError(t, <-l.end)
	require.Equal(t, []firerunner.GuestReport{
		{Kind: firerunner.ReportNotice, Message: "gitlab-runner: slow"}, {Kind: firerunner.ReportRunnerExited},
	}, l.story(t))
	require.True(t, l.command.privileges)
}

// until waits for a report of a kind.
func (l *life) until(kind firerunner.ReportKind) firerunner.GuestReport {
	for r := range l.reports {
		if r.Kind == kind {
			return r
		}
	}
	return firerunner.GuestReport{}
}

func TestAgentOrderFinish(t *testing.T) {
	l := live(t, lifeStart(), `trap 'echo "{\"level\":\"warning\",\"msg\":\"quit\"}" >&2; exit 0' QUIT; `+sayTook+`while :; do sleep 0.01; done`, nil)
	l.until(firerunner.ReportTookJob)
	l.orders <- firerunner.OrderFinish
	require.NoError(t, <-l.end)
	require.Equal(t, []firerunner.GuestReport{
		{Kind: firerunner.ReportNotice, Message: "gitlab-runner: quit"}, {Kind: firerunner.ReportRunnerExited},
	}, l.story(t))
}

func TestAgentOrderStop(t *testing.T) {
	l := live(t, lifeStart(), `trap '`+strings.ReplaceAll(sayDone, "'", `'\''`)+`exit 0' TERM; `+sayTook+`while :; do sleep 0.01; done`, nil)
	l.until(firerunner.ReportTookJob)
	l.orders <- firerunner.OrderStop
	l.orders <- firerunner.OrderStop // once is enough
	require.NoError(t, <-l.end)
	require.Equal(t, []firerunner.GuestReport{
		{Kind: firerunner.ReportJobDone, JobID: 7, Success: true}, {Kind: firerunner.ReportRunnerExited, Message: "stopped by order"},
	}, l.story(t))
}

func TestAgentStopsWhatDoesNotStop(t *testing.T) {
	l := live(t, lifeStart(), `trap '' TERM; `+sayTook+`while :; do sleep 0.01; done`, func(a *agent) { a.limits.jobGrace = 10 * time.Millisecond })
	l.until(firerunner.ReportTookJob)
	l.orders <- firerunner.OrderStop
	require.NoError(t, <-l.end)
	require.Equal(t, []firerunner.GuestReport{{Kind: firerunner.ReportRunnerExited, ExitCode: -1, Message: "ended by SIGKILL"}}, l.story(t))
}

func TestAgentNoJob(t *testing.T) {
	start := lifeStart()
	l := live(t, start, `echo '{"level":"info","msg":"This runner has not received a job in 60 seconds, so now exiting"}'`, nil)
	require.NoError(t, <-l.end)
	require.Contains(t, l.until(firerunner.ReportRunnerExited).Message, "has not received a job")

	start.WaitTimeout = time.Second // gitlab-runner does not keep to it
	l = live(t, start, `trap 'kill $!; exit 0' TERM; sleep 60 & wait`, func(a *agent) { a.limits.overshoot = 0 })
	require.NoError(t, <-l.end)
	require.Equal(t, "no job within 1s", l.until(firerunner.ReportRunnerExited).Message)
}

// A job that does not end by the deadline ends with its microVM, whatever the host does.
func TestAgentDeadline(t *testing.T) {
	expired := make(chan struct{})
	l := live(t, lifeStart(), `trap 'kill $!; exit 0' TERM; `+sayTook+`sleep 60 & wait`, func(a *agent) {
		a.deadline, a.expire = time.Now().Add(20*time.Millisecond), func() { close(expired) }
	})
	<-expired
	l.until(firerunner.ReportTookJob)
	l.orders <- firerunner.OrderStop
	require.NoError(t, <-l.end)
}

func TestAgentRefused(t *testing.T) {
	l := live(t, lifeStart(), `trap 'kill $!; exit 0' TERM; sleep 60 & echo '{"level":"info","msg":"Runner is not healthy!"}'; wait`, nil)
	require.NoError(t, <-l.end)
	require.Equal(t, "GitLab refuses the runner's credential", l.until(firerunner.ReportError).Message)
	require.Equal(t, firerunner.ReportRunnerExited, l.until(firerunner.ReportRunnerExited).Kind)
}

func TestAgentErrSystem(t *testing.T) {
	broken := errors.New("broken")
	for want, change := range map[string]func(*agent){
		"randomness": func(a *agent) { a.system.addEntropy = func([]byte) error { return broken } },
		"clock":      func(a *agent) { a.system.setClock = func(time.Time) error { return broken } },
		"host name":  func(a *agent) { a.system.hostname = func(string) error { return broken } },
		"network":    func(a *agent) { a.system.network = func(firerunner.GuestNetwork) error { return broken } },
		"broken":     func(a *agent) { a.system.chown = func(string, int, int) error { return broken } },
		"no user ci": func(a *agent) { _ = os.WriteFile(a.root+"/etc/passwd", nil, 0o644) },
		"start it": func(a *agent) {
			a.system.start = func(command) (*process, error) { return nil, errors.New("start it: " + broken.Error()) }
		},
		"notice pipe":  func(a *agent) { _ = os.MkdirAll(a.path(gitlabrunner.NoticePipe)+"/x", 0o755) },
		"is a directo": func(a *agent) { _ = os.MkdirAll(a.path("/etc/machine-id"), 0o755) },
	} {
		l := live(t, lifeStart(), "exit 0", change)
		require.ErrorContains(t, <-l.end, want)
		require.Contains(t, l.until(firerunner.ReportError).Message, want)
	}
}

func TestAgentErrStart(t *testing.T) {
	for want, change := range map[string]func(*firerunner.GuestStart){
		"machine id": func(s *firerunner.GuestStart) { s.MachineID = "../../etc/passwd" },
		"host name":  func(s *firerunner.GuestStart) { s.Hostname = "a b" },
		"URL":        func(s *firerunner.GuestStart) { s.GitLabURL = "file:///etc" },
	} {
		start := lifeStart()
		change(&start)
		l := live(t, start, "exit 0", nil)
		require.ErrorContains(t, <-l.end, want)
	}
	require.Empty(t, resolvConf("10.0.0.1\nsearch evil"))
}

func TestAgentErrNoStart(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	channel := guest.Dial(near, guest.FromGuest{}, nil)
	defer channel.Close()
	a := &agent{con: &console{w: &consoleLog{}, uptime: uptime}, channel: channel, startWait: 10 * time.Millisecond, flushWait: 10 * time.Millisecond}
	require.ErrorContains(t, a.run(t.Context()), "wait for the host's start")
}
