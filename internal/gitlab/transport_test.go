package gitlab

import (
	"bufio"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// A redirect to another host must not be followed: http.Client would carry PRIVATE-TOKEN there.
func TestRedirect_ErrElsewhere(t *testing.T) {
	t.Parallel()
	for name, do := range everyCall() {
		for _, status := range []int{301, 302, 303, 307, 308} {
			elsewhere := newServer(t, text(200, `{"id":42,"status":"pending","version":"1","token":"glrt-x"}`))
			s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, elsewhere.URL+"/secret/path?and=query", status)
			})
			err := do(t.Context(), newClient(t, s.URL))
			require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err), "%s %d: %v", name, status, err)
			require.Contains(t, err.Error(), elsewhere.URL)
			require.NotContains(t, err.Error(), "secret")
			require.Contains(t, firerunner.HintOf(err), "gitlab.url")
			require.Empty(t, elsewhere.requests(), "%s %d", name, status)
			require.Len(t, s.requests(), 1)
		}
	}
}

func TestRedirect_Within(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	s.Config.Handler = s.remember(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v4/projects/8/jobs/42" {
			http.Redirect(w, r, "/api/v4/projects/8/jobs/42", http.StatusTemporaryRedirect)
			return
		}
		text(200, `{"id":42,"status":"pending"}`)(w, r)
	})
	c := newClient(t, s.URL)
	_, err := c.Job(t.Context(), 7, 42) // a project that moved
	require.NoError(t, err)
	require.Len(t, s.requests(), 2)
	require.Equal(t, testToken, s.requests()[1].token)

	_, err = c.CreateRunner(t.Context(), request())
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err), "a POST is not sent again, not even here")
	require.Len(t, s.requests(), 3)

	s.Config.Handler = s.remember(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
	})
	_, err = c.Job(t.Context(), 7, 42)
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err), "round and round")
}

// The last guard: whatever asks the transport for another host gets nothing, and no token.
func TestTransport_ErrOtherHost(t *testing.T) {
	t.Parallel()
	elsewhere := newServer(t, text(200, `{}`))
	s := newServer(t, text(200, `{}`))
	c := newClient(t, s.URL)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, elsewhere.URL, http.NoBody)
	require.NoError(t, err)
	_, err = c.http.Transport.RoundTrip(req)
	require.ErrorIs(t, err, errRefused)
	require.Empty(t, elsewhere.requests())
	require.Empty(t, req.Header.Get("PRIVATE-TOKEN"))
}

// tlsServer is a GitLab with a certificate of its own authority, and that authority's file.
func tlsServer(t *testing.T, answer http.HandlerFunc) (*server, string) {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewUnstartedServer(s.remember(answer))
	s.Server.Config.ErrorLog = nil
	s.Server.StartTLS()
	t.Cleanup(s.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	require.NoError(t, os.WriteFile(file, block, 0o600))
	return s, file
}

func TestTLS_CAFile(t *testing.T) {
	t.Parallel()
	s, ca := tlsServer(t, text(200, `{"id":42,"status":"pending"}`))
	_, err := newClient(t, s.URL).Job(t.Context(), 7, 42)
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
	require.Contains(t, firerunner.HintOf(err), "ca_file")
	require.Empty(t, s.requests(), "no token before trust")

	_, err = newClient(t, s.URL, func(cfg *Config) { cfg.CAFile = ca }).Job(t.Context(), 7, 42)
	require.NoError(t, err)
}

// connectProxy is an HTTP proxy on loopback that takes every name to one address.
type connectProxy struct {
	listener net.Listener
	to       string
	mu       sync.Mutex
	lines    []string
	running  sync.WaitGroup
}

func newConnectProxy(t *testing.T, to string) *connectProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &connectProxy{listener: l, to: to}
	p.running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() { l.Close(); p.running.Wait() })
	return p
}

func (p *connectProxy) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	p.mu.Lock()
	p.lines = append(p.lines, req.Method+" "+req.Host+" token="+strconv.FormatBool(req.Header.Get("PRIVATE-TOKEN") != ""))
	p.mu.Unlock()
	out, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer out.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	var there sync.WaitGroup
	there.Go(func() { _, _ = io.Copy(out, r); _ = out.(*net.TCPConn).CloseWrite() })
	_, _ = io.Copy(conn, out)
	conn.Close()
	there.Wait()
}

func (p *connectProxy) seen() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines...)
}

func TestProxy_FromEnvironment(t *testing.T) {
	s, ca := tlsServer(t, text(200, `{"id":42,"status":"pending"}`))
	to, err := url.Parse(s.URL)
	require.NoError(t, err)
	proxy := newConnectProxy(t, to.Host)
	t.Setenv("HTTPS_PROXY", "http://"+proxy.listener.Addr().String())
	t.Setenv("NO_PROXY", "direct.invalid")

	c := newClient(t, "https://example.com", func(cfg *Config) { cfg.CAFile = ca }) // the name in httptest's certificate
	_, err = c.Job(t.Context(), 7, 42)
	require.NoError(t, err)
	require.Equal(t, []string{"CONNECT example.com:443 token=false"}, proxy.seen(), "the proxy does not see the token")
	require.Equal(t, testToken, s.requests()[0].token)
	require.NoError(t, c.Close())

	c = newClient(t, "https://direct.invalid", func(cfg *Config) { cfg.Attempts = 1; cfg.Timeout = time.Second })
	_, err = c.Job(t.Context(), 7, 42)
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
	require.Len(t, proxy.seen(), 1, "NO_PROXY holds")
}

func TestObserve_EachRequest(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var seen []string
	s := newServer(t, nil)
	s.Config.Handler = s.remember(func(w http.ResponseWriter, r *http.Request) {
		if len(s.requests()) == 1 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		text(200, `{"id":42,"status":"pending"}`)(w, r)
	})
	c := newClient(t, s.URL, func(cfg *Config) {
		cfg.Observe = func(op string, code int, took time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, op+" "+strconv.Itoa(code))
			if took < 0 {
				seen = append(seen, "negative")
			}
		}
	})
	_, err := c.Job(t.Context(), 7, 42)
	require.NoError(t, err)
	s.CloseClientConnections()
	s.Close()
	require.NoError(t, c.Close())
	require.Error(t, c.DeleteRunner(t.Context(), 1))
	require.Equal(t, []string{"job 502", "job 200", "delete_runner 0", "delete_runner 0", "delete_runner 0"}, seen)
}

func TestPerSecond_Bounds(t *testing.T) {
	t.Parallel()
	s := newServer(t, text(200, `{"id":42,"status":"pending"}`))
	c := newClient(t, s.URL, func(cfg *Config) { cfg.PerSecond = 0.001; cfg.Timeout = 100 * time.Millisecond })
	_, err := c.Job(t.Context(), 7, 42)
	require.NoError(t, err)
	began := time.Now()
	_, err = c.Job(t.Context(), 7, 42)
	require.Equal(t, firerunner.Exhausted, firerunner.CodeOf(err), "%v", err)
	require.Less(t, time.Since(began), 5*time.Second)
	require.Len(t, s.requests(), 1)
}
