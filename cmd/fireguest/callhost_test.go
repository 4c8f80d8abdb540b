package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabrunner"
	"github.com/firerunner/firerunner/internal/guest"
)

const oneTimeToken = "one-time-token-of-this-vm"

// desk is where one guest is known: a firerunner.GuestDesk.
type desk struct {
	start firerunner.GuestStart

	mu      sync.Mutex
	used    bool
	last    int64
	console strings.Builder
	reports chan firerunner.GuestReport
	orders  chan firerunner.GuestOrder
}

func newDesk(start firerunner.GuestStart) *desk {
	return &desk{start: start, reports: make(chan firerunner.GuestReport, 200), orders: make(chan firerunner.GuestOrder, 2)}
}

func (d *desk) Admit(_ context.Context, _ string, token firerunner.Secret) (firerunner.GuestStart, firerunner.Secret, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if token != oneTimeToken {
		return firerunner.GuestStart{}, "", firerunner.Errorf(firerunner.Unauthorized, "no")
	}
	if d.used {
		return firerunner.GuestStart{}, "", firerunner.Errorf(firerunner.Conflict, "used")
	}
	d.used = true
	return d.start, "session", nil
}

func (d *desk) Return(context.Context, string, firerunner.Secret) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last, nil
}

func (d *desk) Record(_ context.Context, _ string, number int64, r firerunner.GuestReport) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if number > d.last {
		d.last = number
		d.reports <- r
	}
	return nil
}

func (d *desk) Alive(string) {}

func (d *desk) Print(_ string, text []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.console.Write(text)
}

func (d *desk) Orders(string) <-chan firerunner.GuestOrder { return d.orders }

func (d *desk) printed() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.console.String()
}

// until waits for a report of a kind.
func (d *desk) until(t *testing.T, kind firerunner.ReportKind) firerunner.GuestReport {
	t.Helper()
	limit := time.After(2 * time.Minute)
	for {
		select {
		case r := <-d.reports:
			if r.Kind == kind {
				return r
			}
		case <-limit:
			require.Fail(t, "no report", kind)
		}
	}
}

// endpoint serves a desk on the loopback interface, and returns its port and its fingerprint.
func endpoint(t *testing.T, d *desk) (port string, certificate tls.Certificate) {
	t.Helper()
	certificate, err := guest.LoadCertificate(t.TempDir())
	require.NoError(t, err)
	e, err := guest.NewEndpoint(guest.EndpointConfig{Desk: d, Certificate: certificate})
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- e.Serve(ctx, listener) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-served) })
	_, port, err = net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	return port, certificate
}

// metadataFor is what a guest finds about the endpoint at this address.
func metadataFor(t *testing.T, address string, certificate tls.Certificate) []byte {
	t.Helper()
	fingerprint, err := guest.ParseFingerprint(guest.Fingerprint(certificate))
	require.NoError(t, err)
	text, err := guest.EncodeMetadata(guest.Metadata{ID: "vm-1", Endpoint: address, Fingerprint: fingerprint, Token: oneTimeToken})
	require.NoError(t, err)
	return text
}

// answered is a metadata service that gives these answers, one for each connection, and then the last one.
func answered(t *testing.T, answers ...string) *metadataService {
	var next atomic.Int64
	var asked sync.WaitGroup
	t.Cleanup(asked.Wait)
	return &metadataService{wait: time.Millisecond, dial: func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		answer := answers[min(int(next.Add(1)), len(answers))-1]
		asked.Go(func() {
			defer far.Close()
			b := make([]byte, 1024)
			if n, _ := far.Read(b); strings.HasPrefix(string(b[:n]), "GET /latest/firerunner HTTP/1.0\r\n") {
				_, _ = io.WriteString(far, answer)
			}
		})
		return near, nil
	}}
}

func answerOf(text []byte) string {
	return "HTTP/1.0 200 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\nContent-Type: text/plain\r\nContent-Length: " +
		strconv.Itoa(len(text)) + "\r\n\r\n" + string(text)
}

func TestMetadataServiceOK(t *testing.T) {
	text := metadataFor(t, "10.0.0.1:8443", tls.Certificate{Certificate: [][]byte{{1}}})
	s := answered(t, "", "nonsense\r\n\r\n", "HTTP/1.0 404 Not Found\r\n\r\n", answerOf(text))
	m, err := s.read(t.Context())
	require.NoError(t, err)
	require.Equal(t, "vm-1", m.ID)
	require.Equal(t, oneTimeToken, m.Token.Reveal())
	m, err = answered(t, "HTTP/1.1 200 OK\r\n\r\n"+string(text)).read(t.Context())
	require.NoError(t, err, "without a length, to the end")
	require.Equal(t, "10.0.0.1:8443", m.Endpoint)
}

func TestMetadataServiceErrAnswer(t *testing.T) {
	for answer, want := range map[string]string{
		"HTTP/1.0 404 Not Found\r\n\r\n":                                     `the service says "404`,
		"HTTP/1.0 200 OK\r\nContent-Length: 99999999\r\n\r\n":                "odd length",
		"HTTP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n":                      "odd length",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n":         "chunks",
		"HTTP/1.0 200 OK\r\nContent-Length: 50\r\n\r\nshort":                 "EOF",
		"HTTP/1.0 200 OK\r\n\r\n" + strings.Repeat("x", guest.MaxMetadata+1): "too long",
		"HTTP/1.0 200 OK\r\n" + strings.Repeat("a: b\r\n", 100) + "\r\n":     "too many headers",
		"HTTP/1.0 200 OK\r\na: " + strings.Repeat("b", 10000) + "\r\n\r\n":   "cut off",
		"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}":                     "version",
		"SSH-2.0-x\r\n": "not HTTP",
	} {
		_, err := answered(t, answer).once(t.Context())
		require.ErrorContains(t, err, want)
	}
	s := &metadataService{wait: time.Millisecond, dial: func(context.Context) (net.Conn, error) { return nil, errors.New("no route") }}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	_, err := s.read(ctx)
	require.ErrorContains(t, err, "no route")
	require.NotNil(t, newMetadataService().dial)
}

func FuzzReadAnswer(f *testing.F) {
	f.Add(answerOf([]byte(`{"v":1}`)))
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
	f.Fuzz(func(t *testing.T, answer string) {
		body, err := readAnswer(strings.NewReader(answer))
		if err == nil {
			require.LessOrEqual(t, len(body), guest.MaxMetadata)
		}
	})
}

// serviceFor is a fireguest --service of a machine whose job is a shell script.
func serviceFor(t *testing.T, text []byte, script string) (s *service, ended *atomic.Int64) {
	t.Helper()
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(root+"/etc", 0o755))
	require.NoError(t, os.WriteFile(root+"/etc/passwd", []byte("ci:x:1000:1000::/home/ci:/bin/bash\n"), 0o644))
	ended = &atomic.Int64{}
	s = &service{
		con: &console{w: &consoleLog{}, uptime: uptime, kernel: func() []byte { return []byte("kernel: a line\n") }}, metadata: answered(t, answerOf(text)),
		block: func() error { return nil }, power: func() { ended.Add(1) }, wait: time.Second,
		configure: func(c *guest.CallerConfig) {
			c.MinBackoff, c.MaxBackoff = time.Millisecond, time.Millisecond
			c.Clock = nil
		},
	}
	s.agent = agent{
		root: root, con: s.con, foreign: true, startWait: 5 * time.Second, flushWait: 5 * time.Second,
		limits: limits{idleGrace: 5 * time.Second, jobGrace: 5 * time.Second, overshoot: time.Minute, drain: 5 * time.Second},
		system: system{
			addEntropy: func([]byte) error { return nil }, setClock: func(time.Time) error { return nil },
			chown: func(string, int, int) error { return nil },
			start: func(c command) (*process, error) {
				cmd := exec.Command("/bin/sh", "-c", script)
				cmd.Stdout, cmd.Stderr = c.output, c.output
				if err := cmd.Start(); err != nil {
					return nil, err
				}
				over := make(chan status, 1)
				go func() {
					_ = cmd.Wait()
					over <- statusOf(cmd.ProcessState.Sys().(syscall.WaitStatus))
				}()
				return &process{signal: func(s syscall.Signal) error { return cmd.Process.Signal(s) }, ended: over}, nil
			},
		},
	}
	return s, ended
}

func TestServiceOK(t *testing.T) {
	d := newDesk(lifeStart())
	port, certificate := endpoint(t, d)
	s, ended := serviceFor(t, metadataFor(t, "127.0.0.1:"+port, certificate), sayTook+sayDone)
	require.NoError(t, s.run(t.Context()))
	require.Equal(t, int64(1), ended.Load())
	for _, kind := range []firerunner.ReportKind{
		firerunner.ReportHello, firerunner.ReportStarted, firerunner.ReportTookJob, firerunner.ReportJobDone, firerunner.ReportRunnerExited,
	} {
		require.Equal(t, kind, (<-d.reports).Kind)
	}
	require.Contains(t, d.printed(), "kernel: a line\n")
	require.Contains(t, d.printed(), "fireguest: ended")
	for _, file := range []string{"/etc/hostname", "/etc/machine-id", "/etc/resolv.conf", "/etc/hosts"} {
		require.NoFileExists(t, s.agent.root+file, "the system is not ours")
	}
	require.FileExists(t, s.agent.root+gitlabrunner.CAFile)

	// The machine is booted again on its old disk: it runs nothing and turns itself off.
	again, ended := serviceFor(t, metadataFor(t, "127.0.0.1:"+port, certificate), "exit 0")
	require.NoError(t, again.run(t.Context()))
	require.Equal(t, int64(2), ended.Load(), "at once, and at the end")
	require.Contains(t, again.con.w.(*consoleLog).text(), "it was booted before: it turns itself off")
	require.Empty(t, d.reports)
	require.NoDirExists(t, again.agent.root+gitlabrunner.BuildsDir)
}

func TestServiceErr(t *testing.T) {
	d := newDesk(lifeStart())
	port, certificate := endpoint(t, d)
	text := metadataFor(t, "127.0.0.1:"+port, certificate)

	s, ended := serviceFor(t, text, "exit 0")
	s.metadata, s.wait = answered(t, "HTTP/1.0 404 Not Found\r\n\r\n"), 100*time.Millisecond
	require.ErrorContains(t, s.run(t.Context()), "404")
	require.Zero(t, ended.Load(), "a machine that is none of ours stays as it is")

	s, ended = serviceFor(t, text, "exit 0")
	s.block = func() error { return errors.New("no netlink") }
	require.NoError(t, s.run(t.Context()))
	require.Equal(t, int64(1), ended.Load())
	require.False(t, d.used, "no job where it could read the metadata")

	// An error of the agent is reported, with what was on the console.
	s, ended = serviceFor(t, text, "exit 3")
	require.NoError(t, os.WriteFile(s.agent.root+"/etc/passwd", nil, 0o644))
	require.NoError(t, s.run(t.Context()))
	require.Equal(t, int64(1), ended.Load())
	require.Contains(t, d.until(t, firerunner.ReportError).Message, "no user ci")
	require.Contains(t, d.printed(), "useradd ended with status 3")
	require.Contains(t, d.printed(), "fireguest: error: no user ci")
}

// A system without the job's user gets one.
func TestServiceAddsUser(t *testing.T) {
	s, _ := serviceFor(t, nil, "exit 0")
	require.NoError(t, s.addUser(), "it has one")
	passwd := s.agent.root + "/etc/passwd"
	require.NoError(t, os.WriteFile(passwd, nil, 0o644))
	var paths []string
	start := s.agent.system.start
	s.agent.system.start = func(c command) (*process, error) {
		if paths = append(paths, c.path); len(paths) == 1 {
			return nil, os.ErrNotExist
		}
		require.True(t, c.privileges)
		return start(c)
	}
	require.NoError(t, s.addUser())
	require.Equal(t, []string{"/usr/sbin/useradd", "/usr/sbin/adduser"}, paths)
}

// The machine is told to shut down: the job is stopped, and that is reported.
func TestServiceStopped(t *testing.T) {
	d := newDesk(lifeStart())
	port, certificate := endpoint(t, d)
	s, ended := serviceFor(t, metadataFor(t, "127.0.0.1:"+port, certificate), `trap 'kill $!; exit 0' TERM; `+sayTook+`sleep 60 & wait`)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.run(ctx) }()
	d.until(t, firerunner.ReportTookJob)
	cancel()
	require.NoError(t, <-done)
	require.Equal(t, "the agent ends", d.until(t, firerunner.ReportRunnerExited).Message)
	require.Equal(t, int64(1), ended.Load())
}

func TestRefusedBootOK(t *testing.T) {
	for code, want := range map[firerunner.Code]string{
		firerunner.Conflict: "booted before", firerunner.NotFound: "lost", firerunner.Unauthorized: "nobody knows",
	} {
		require.ErrorContains(t, refusedBoot(code), want)
	}
}
