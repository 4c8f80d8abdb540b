package provision

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/firerunner/firerunner"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "glrt-very-secret"

// program plays gitlab-runner: it reads its configuration, takes a job, and ends when it is told to.
const runnerScript = `#!/bin/sh
say() { echo "{\"msg\":\"$1\"}"; }
trap 'say "done 7 stopped"; exit 3' TERM
grep -q glrt- "$3" && cp "$3" BASE/seen
say "Starting runner for x"
while [ -e "$3" ]; do sleep 0.05; done
say "took 7"
echo "{\"msg\":\"$(head -c 70000 /dev/zero | tr '\0' x)\"}"
while [ ! -e BASE/finish ]; do sleep 0.05; done
say "done 7"
exit 0
`

// run is one Run.
type run struct {
	t       *testing.T
	machine *machine
	cfg     Config
	orders  chan firerunner.GuestOrder

	mu      sync.Mutex
	reports []firerunner.GuestReport
	came    chan struct{}
}

func newRun(t *testing.T) *run {
	t.Helper()
	r := &run{t: t, machine: newMachine(t), orders: make(chan firerunner.GuestOrder, 1), came: make(chan struct{}, 100)}
	program := filepath.Join(t.TempDir(), "gitlab-runner")
	text := []byte(strings.ReplaceAll(runnerScript, "BASE", r.machine.dir))
	require.NoError(t, os.WriteFile(program, text, 0o644))
	sum := sha256.Sum256(text)
	r.cfg = Config{
		Host: "h1", ID: "vm1", Key: r.machine.keys.Login, HostKeys: []ssh.PublicKey{r.machine.keys.Host},
		Dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", r.machine.listener.Addr().String())
		},
		Start:    firerunner.GuestStart{Token: token, CA: "certificates\n"},
		Runner:   Runner{Path: program, SHA256: hex.EncodeToString(sum[:])},
		Settings: func(s firerunner.GuestStart) (string, error) { return "token = " + s.Token.Reveal() + "\n", nil },
		Arguments: func(_ firerunner.GuestStart, settings string) []string {
			return []string{"run-single", "-c", settings, "it's"}
		},
		Parse: parse,
		Report: func(report firerunner.GuestReport) {
			r.mu.Lock()
			r.reports = append(r.reports, report)
			r.mu.Unlock()
			r.came <- struct{}{}
		},
		Orders:   r.orders,
		Timeouts: Timeouts{Connect: 20 * time.Second, Step: 20 * time.Second, Idle: time.Minute, Job: time.Minute},
	}
	return r
}

func parse(line []byte) (firerunner.GuestReport, bool) {
	var l struct{ Msg string }
	if json.Unmarshal(line, &l) != nil {
		return firerunner.GuestReport{}, false
	}
	switch {
	case l.Msg == "took 7":
		return firerunner.GuestReport{Kind: firerunner.ReportTookJob, JobID: 7}, true
	case strings.HasPrefix(l.Msg, "done 7"):
		return firerunner.GuestReport{Kind: firerunner.ReportJobDone, JobID: 7, Success: l.Msg == "done 7"}, true
	}
	return firerunner.GuestReport{}, false
}

// start runs it; the func waits for its end.
func (r *run) start() func() error {
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	done := make(chan error, 1)
	go func() { defer cancel(); done <- Run(ctx, r.cfg) }()
	return func() error { return <-done }
}

// until waits for a report of the kind.
func (r *run) until(kind firerunner.ReportKind) firerunner.GuestReport {
	r.t.Helper()
	for {
		r.mu.Lock()
		for _, report := range r.reports {
			if report.Kind == kind {
				r.mu.Unlock()
				return report
			}
		}
		r.mu.Unlock()
		select {
		case <-r.came:
		case <-time.After(30 * time.Second):
			r.t.Fatalf("no report %s; log: %s", kind, r.machine.read("run/log"))
		}
	}
}

func (r *run) kinds() (kinds []firerunner.ReportKind) {
	for _, report := range r.reports {
		if report.Kind != firerunner.ReportNotice {
			kinds = append(kinds, report.Kind)
		}
	}
	return kinds
}

func (r *run) finish() { r.machine.write("finish", "") }

var whole = []firerunner.ReportKind{
	firerunner.ReportHello, firerunner.ReportStarted, firerunner.ReportTookJob, firerunner.ReportJobDone, firerunner.ReportRunnerExited,
}

func TestRunOK(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	r.machine.deny = 1 // sshd is up before it knows the key
	wait := r.start()
	r.until(firerunner.ReportTookJob)
	require.Equal(t, "token = "+token+"\n", r.machine.read("seen"), "gitlab-runner read its configuration")
	require.NoFileExists(t, filepath.Join(r.machine.dir, "run/private/config.toml"), "a job finds no token")
	r.finish()
	require.NoError(t, wait())
	require.Equal(t, whole, r.kinds())
	require.True(t, r.until(firerunner.ReportJobDone).Success)
	require.Zero(t, r.until(firerunner.ReportRunnerExited).ExitCode)
	require.Equal(t, "certificates\n", r.machine.read("run/ca.pem"))
	require.Contains(t, r.machine.read("useradd"), "ci")
	require.Contains(t, r.machine.read("chown"), "config.toml")
	require.Eventually(t, func() bool { return r.machine.read("off") == "" && fileExists(r.machine, "off") }, 10*time.Second, 10*time.Millisecond)
	for _, command := range r.machine.commands {
		require.NotContains(t, command, token, "a secret in a command")
	}
}

func fileExists(m *machine, name string) bool {
	_, err := os.Stat(filepath.Join(m.dir, name))
	return err == nil
}

// The connection breaks while the job runs: nothing is lost, nothing is told twice.
func TestRunReconnect(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	wait := r.start()
	r.until(firerunner.ReportTookJob)
	for range 3 {
		r.machine.cut()
	}
	r.finish()
	require.NoError(t, wait())
	require.Equal(t, whole, r.kinds())
}

func TestRunOrderStop(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	wait := r.start()
	r.until(firerunner.ReportTookJob)
	r.orders <- firerunner.OrderStop
	require.NoError(t, wait())
	require.Equal(t, whole, r.kinds())
	require.False(t, r.until(firerunner.ReportJobDone).Success)
	require.Equal(t, 3, r.until(firerunner.ReportRunnerExited).ExitCode)
	require.Equal(t, "stopped by order", r.until(firerunner.ReportRunnerExited).Message)
}

// One that does not hear is killed.
func TestRunKill(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	text := strings.ReplaceAll(strings.ReplaceAll(runnerScript, "BASE", r.machine.dir), `trap 'say "done 7 stopped"; exit 3' TERM`, `trap '' TERM`)
	require.NoError(t, os.WriteFile(r.cfg.Runner.Path, []byte(text), 0o644))
	sum := sha256.Sum256([]byte(text))
	r.cfg.Runner.SHA256 = hex.EncodeToString(sum[:])
	r.cfg.Timeouts.Job = 50 * time.Millisecond
	wait := r.start()
	r.until(firerunner.ReportTookJob)
	r.orders <- firerunner.OrderStop
	require.NoError(t, wait())
	require.Equal(t, 137, r.reports[len(r.reports)-1].ExitCode)
}

func TestRunSudoAndDownload(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	r.machine.write("uid", "1000\n")
	text, err := os.ReadFile(r.cfg.Runner.Path)
	require.NoError(t, err)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(text) }))
	defer web.Close()
	r.cfg.Runner.Path, r.cfg.Runner.URL = "", web.URL+"/runner"
	r.finish()
	require.NoError(t, r.start()())
	require.Equal(t, whole, r.kinds())

	// A second microVM from the same disk has the program already.
	web.Close()
	r.reports = nil
	require.NoError(t, os.Remove(filepath.Join(r.machine.dir, "run/exit")))
	require.NoError(t, os.Remove(filepath.Join(r.machine.dir, "run/pid")))
	require.NoError(t, r.start()())
	require.Equal(t, whole, r.kinds())
}

func TestRunErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(*run)
		step  string
		says  string
	}{
		"host key": {func(r *run) {
			other, err := NewKeys(rand.Reader)
			require.NoError(r.t, err)
			r.cfg.HostKeys = []ssh.PublicKey{other.Host}
		}, "connect", "another host key"},
		"nobody there": {func(r *run) {
			r.cfg.Timeouts.Connect = 300 * time.Millisecond
			r.cfg.Dial = func(context.Context) (net.Conn, error) { return nil, errors.New("no route") }
		}, "connect", "no route"},
		"silent": {func(r *run) {
			r.cfg.Timeouts.Connect, r.cfg.Timeouts.Attempt = 300*time.Millisecond, 50*time.Millisecond
			r.cfg.Dial = func(context.Context) (net.Conn, error) {
				near, far := net.Pipe()
				r.t.Cleanup(func() { _ = far.Close() })
				return near, nil
			}
		}, "connect", "no login within"},
		"wrong key": {func(r *run) {
			other, err := NewKeys(rand.Reader)
			require.NoError(r.t, err)
			r.cfg.Key, r.cfg.Timeouts.Connect = other.Login, time.Second
		}, "connect", "unable to authenticate"},
		"no sudo": {func(r *run) {
			r.machine.write("uid", "1000\n")
			r.machine.write("no-sudo", "")
		}, "become root", "a password is required"},
		"arm":        {func(r *run) { r.machine.write("machine", "aarch64\n") }, "look around", "aarch64"},
		"chatty":     {func(r *run) { r.machine.write("machine", "Welcome! Have fun.\n") }, "look around", "no sense"},
		"changed":    {func(r *run) { r.cfg.Runner.SHA256 = strings.Repeat("a", 64) }, "install gitlab-runner", "has the sum"},
		"no file":    {func(r *run) { r.cfg.Runner.Path = "/nowhere" }, "install gitlab-runner", "no such file"},
		"no setpriv": {func(r *run) { r.machine.write("bin/install", "#!/bin/sh\necho 'no room' >&2; exit 1\n") }, "make the job's user", "no room"},
		"bad start": {func(r *run) {
			r.cfg.Settings = func(firerunner.GuestStart) (string, error) { return "", errors.New("no token") }
		}, "write the configuration", "no token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRun(t)
			c.spoil(r)
			err := r.start()()
			require.ErrorContains(t, err, `host h1, microVM vm1, step "`+c.step+`"`)
			require.ErrorContains(t, err, c.says)
			if name != "bad start" {
				require.NotEmpty(t, firerunner.HintOf(err))
			}
			require.NotContains(t, err.Error(), token)
			last := r.reports[len(r.reports)-1]
			require.Equal(t, firerunner.ReportError, last.Kind)
		})
	}
	err := Run(t.Context(), Config{Report: func(firerunner.GuestReport) {}})
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
}
