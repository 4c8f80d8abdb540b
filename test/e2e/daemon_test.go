package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"
)

// daemon is one process of "firerunner serve".
type daemon struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed once it has ended
}

// start starts the daemon and waits until it says that it is ready. Its log goes on in the same file after a restart.
func (s *site) start() {
	s.t.Helper()
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(s.t, err)
	defer log.Close()
	args := []string{"serve", "--config", s.configFile()}
	for _, setting := range s.settings {
		args = append(args, "--set", setting)
	}
	d := &daemon{cmd: exec.Command(s.program, args...), ended: make(chan struct{})}
	d.cmd.Dir, d.cmd.Stdout, d.cmd.Stderr = s.dir, log, log
	d.cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "GOCOVERDIR=" + under.coverDir, "FIRERUNNER_SHIM=" + under.released,
	}
	require.NoError(s.t, d.cmd.Start())
	s.daemon = d
	go func() {
		defer close(d.ended)
		_ = d.cmd.Wait() // what it says is in ProcessState
	}()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	s.eventually("a daemon that is ready", func() bool {
		require.True(s.t, d.lives(), "the daemon has ended:\n%s", tail(readAll(s.logFile()), 20))
		answer, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/readyz", s.webhooks))
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
}

func (d *daemon) lives() bool {
	select {
	case <-d.ended:
		return false
	default:
		return true
	}
}

func (d *daemon) signal(sig syscall.Signal) { _ = d.cmd.Process.Signal(sig) }

// wait returns the exit status, and ok = false if the daemon did not end in time.
func (d *daemon) wait(limit time.Duration) (status int, ok bool) {
	select {
	case <-d.ended:
		return d.cmd.ProcessState.ExitCode(), true
	case <-time.After(limit):
		return 0, false
	}
}

// kill ends the daemon as a crash of the machine's memory would: it can do nothing about it.
func (s *site) kill() {
	s.t.Helper()
	s.daemon.signal(syscall.SIGKILL)
	_, ok := s.daemon.wait(patience)
	require.True(s.t, ok, "the daemon survives kill -9")
}

// stop ends the daemon gently. It must have nothing to complain of.
func (s *site) stop() {
	s.t.Helper()
	s.daemon.signal(syscall.SIGTERM)
	status, ok := s.daemon.wait(patience)
	require.True(s.t, ok, "the daemon does not end")
	require.Zero(s.t, status, "exit status of the daemon:\n%s", tail(readAll(s.logFile()), 20))
}

func (s *site) logFile() string { return filepath.Join(s.dir, "daemon.log") }

// logLine is one line of the daemon's log.
type logLine struct {
	Time    time.Time `json:"time"`
	Level   string    `json:"level"`
	Message string    `json:"msg"`
	Kind    string    `json:"kind"`
	Job     int64     `json:"job"`
	Runner  string    `json:"runner"`
	VM      string    `json:"vm"`
	Reason  string    `json:"reason"`
	Text    string    `json:"message"`
}

// log returns the daemon's log, and what in it is no line of a log.
func (s *site) log() (lines []logLine, odd []string) {
	in := bufio.NewScanner(strings.NewReader(readAll(s.logFile())))
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var l logLine
		if json.Unmarshal(in.Bytes(), &l) != nil {
			odd = append(odd, in.Text())
			continue
		}
		lines = append(lines, l)
	}
	return lines, odd
}
