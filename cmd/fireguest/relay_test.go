package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/gitlabrunner"
)

// taking is a relay in front of a GitLab, and what it took from that.
type taking struct {
	*relay
	client *http.Client
	mu     sync.Mutex
	jobs   []string
}

func relayTo(t *testing.T, gitlabURL, ca string, answer func()) *taking {
	t.Helper()
	x := &taking{client: &http.Client{
		Transport:     &http.Transport{},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	var err error
	x.relay, err = openRelay(gitlabURL, ca, func(_ context.Context, job int64, token firerunner.Secret) {
		x.mu.Lock()
		x.jobs = append(x.jobs, fmt.Sprint(job, " ", token.Reveal()))
		x.mu.Unlock()
		if answer != nil {
			answer()
		}
	})
	require.NoError(t, err)
	t.Cleanup(func() { x.client.CloseIdleConnections(); x.close() })
	return x
}

func (x *taking) took() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return append([]string(nil), x.jobs...)
}

func (x *taking) ask(t *testing.T, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, x.url()+path, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	res, err := x.client.Do(q)
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(text)
}

const aJob = `{"id":7,"token":"glcbt-7","variables":[{"key":"A","value":"b"}],"steps":[{"id":9,"token":"not-this"}]}`

// upstream answers each request by a function and keeps what it was asked.
func upstream(t *testing.T, answer http.HandlerFunc) *httptest.Server {
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	return s
}

func TestRelayJobOK(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(w http.ResponseWriter){
		"whole": func(w http.ResponseWriter) { _, _ = io.WriteString(w, aJob) },
		"in pieces": func(w http.ResponseWriter) {
			for _, c := range aJob {
				_, _ = io.WriteString(w, string(c))
				w.(http.Flusher).Flush()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var seen http.Header
			var host string
			s := upstream(t, func(w http.ResponseWriter, r *http.Request) {
				seen, host = r.Header.Clone(), r.Host
				w.Header().Set("X-GitLab-Last-Update", "abc")
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusCreated)
				write(w)
			})
			x := relayTo(t, s.URL+"/sub/path", "", nil)
			require.Regexp(t, `^http://127\.0\.0\.1:\d+/sub/path$`, x.url())
			require.False(t, x.reported(7))
			res, body := x.ask(t, http.MethodPost, "/api/v4/jobs/request", `{}`, "RUNNER-TOKEN", "glrt-1", "X-Forwarded-For", "10.1.1.1", "Accept-Encoding", "gzip")
			require.Equal(t, http.StatusCreated, res.StatusCode)
			require.Equal(t, aJob, body)
			require.Equal(t, "abc", res.Header.Get("X-GitLab-Last-Update"))
			require.Equal(t, []string{"7 glcbt-7"}, x.took())
			require.True(t, x.reported(7))
			require.False(t, x.reported(8))
			require.Equal(t, strings.TrimPrefix(s.URL, "http://"), host)
			require.Equal(t, "glrt-1", seen.Get("RUNNER-TOKEN"))
			require.Equal(t, "10.1.1.1", seen.Get("X-Forwarded-For"))
			require.Empty(t, seen.Get("Accept-Encoding"), "the answer must be readable")
		})
	}
}

// TestRelayReportsFirst: the job cannot begin before the host was told of it.
func TestRelayReportsFirst(t *testing.T) {
	t.Parallel()
	s := upstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, aJob)
	})
	reported, release := make(chan struct{}), make(chan struct{})
	x := relayTo(t, s.URL, "", func() { close(reported); <-release })
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		x.ask(t, http.MethodPost, "/api/v4/jobs/request", `{}`)
	}()
	<-reported
	select {
	case <-answered:
		t.Fatal("gitlab-runner has the job, and the host was not told yet")
	case <-time.After(20 * time.Millisecond):
	}
	close(release)
	<-answered
}

// TestRelayLooksAtNothingElse: what is no answer that gives a job passes as it is.
func TestRelayLooksAtNothingElse(t *testing.T) {
	t.Parallel()
	huge := `{"id":7,"token":"glcbt-7","x":"` + strings.Repeat("x", maxJobAnswer) + `"}`
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = io.WriteString(z, aJob)
	require.NoError(t, z.Close())
	for name, tc := range map[string]struct {
		method, path string
		status       int
		body         string
	}{
		"no job":          {http.MethodPost, "/api/v4/jobs/request", http.StatusNoContent, ""},
		"refused":         {http.MethodPost, "/api/v4/jobs/request", http.StatusForbidden, aJob},
		"not asked":       {http.MethodGet, "/api/v4/jobs/request", http.StatusCreated, aJob},
		"somewhere else":  {http.MethodPost, "/api/v4/jobs/7/artifacts", http.StatusCreated, aJob},
		"no JSON":         {http.MethodPost, "/api/v4/jobs/request", http.StatusCreated, "<html>"},
		"an odd number":   {http.MethodPost, "/api/v4/jobs/request", http.StatusCreated, `{"id":"7","token":"x"}`},
		"not a job":       {http.MethodPost, "/api/v4/jobs/request", http.StatusCreated, `{"id":-7,"token":"x"}`},
		"far too long":    {http.MethodPost, "/api/v4/jobs/request", http.StatusCreated, huge},
		"packed all same": {http.MethodPost, "/api/v4/jobs/request", http.StatusCreated, packed.String()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := upstream(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			})
			x := relayTo(t, s.URL, "", nil)
			res, body := x.ask(t, tc.method, tc.path, "")
			require.Equal(t, tc.status, res.StatusCode)
			require.True(t, tc.body == body, "as it came")
			require.Empty(t, x.took())
		})
	}
}

// TestRelayStreams: nothing is held back, in neither direction, and redirects and odd queries are the caller's.
func TestRelayStreams(t *testing.T) {
	t.Parallel()
	s := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/api/v4/jobs/7/trace": // answers each line as it comes
			_ = http.NewResponseController(w).EnableFullDuplex()
			w.Header().Set("Range", "0-4")
			w.WriteHeader(http.StatusAccepted)
			w.(http.Flusher).Flush()
			in := bufio.NewScanner(r.Body)
			for in.Scan() {
				_, _ = fmt.Fprintln(w, strings.ToUpper(in.Text()))
				w.(http.Flusher).Flush()
			}
		case "/api/v4/jobs/7/artifacts":
			w.Header().Set("Location", "https://elsewhere.test/a?"+r.URL.RawQuery)
			w.WriteHeader(http.StatusTemporaryRedirect)
		}
	})
	x := relayTo(t, s.URL, "", nil)
	res, _ := x.ask(t, http.MethodGet, "/api/v4/jobs/7/artifacts?direct_download=true&odd;=%zz", "")
	require.Equal(t, http.StatusTemporaryRedirect, res.StatusCode)
	require.Equal(t, "https://elsewhere.test/a?direct_download=true&odd;=%zz", res.Header.Get("Location"))

	conn, err := net.Dial("tcp", x.listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	in := bufio.NewReader(conn)
	say := func(text string) {
		_, err := fmt.Fprintf(conn, "%x\r\n%s\r\n", len(text), text)
		require.NoError(t, err)
	}
	_, err = io.WriteString(conn, "PATCH /api/v4/jobs/7/trace HTTP/1.1\r\nHost: x\r\nContent-Range: 0-4\r\nTransfer-Encoding: chunked\r\n\r\n")
	require.NoError(t, err)
	say("one\n")
	answer, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusAccepted, answer.StatusCode)
	require.Equal(t, "0-4", answer.Header.Get("Range"))
	lines := bufio.NewReader(answer.Body)
	for _, line := range []string{"ONE\n", "TWO\n", "THREE\n"} { // each before the next is sent
		got, err := lines.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, line, got)
		say(map[string]string{"ONE\n": "two\n", "TWO\n": "three\n", "THREE\n": "four\n"}[line])
	}
}

func TestRelayErrUnreachable(t *testing.T) {
	t.Parallel()
	s := upstream(t, func(http.ResponseWriter, *http.Request) {})
	s.Close()
	x := relayTo(t, s.URL, "", nil)
	res, body := x.ask(t, http.MethodPost, "/api/v4/jobs/request", "{}")
	require.Equal(t, http.StatusBadGateway, res.StatusCode)
	require.Equal(t, "application/json", res.Header.Get("Content-Type"))
	var said struct{ Message string }
	require.NoError(t, json.Unmarshal([]byte(body), &said))
	require.Contains(t, said.Message, "GitLab cannot be reached from the microVM: ")
	require.Contains(t, said.Message, "connection refused")
}

// TestRelayTLS: the host's CA is trusted, nobody else's, and what is wrong is said.
func TestRelayTLS(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, aJob)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of the client that does not trust it
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	x := relayTo(t, s.URL, ca, nil)
	res, _ := x.ask(t, http.MethodPost, "/api/v4/jobs/request", "{}")
	require.Equal(t, http.StatusCreated, res.StatusCode)
	require.Equal(t, []string{"7 glcbt-7"}, x.took())

	_, body := relayTo(t, s.URL, "", nil).ask(t, http.MethodPost, "/api/v4/jobs/request", "{}")
	require.Contains(t, body, "certificate signed by unknown authority")
	_, err := openRelay(s.URL, "PEM", nil)
	require.ErrorContains(t, err, "no certificate in the CA")
	_, err = openRelay("::", "", nil)
	require.ErrorContains(t, err, "not a URL")
}

// TestAgentRelay: gitlab-runner is given the relay, and its job is reported once, sealed, before it has it.
func TestAgentRelay(t *testing.T) {
	s := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, aJob)
	})
	own, err := firerunner.NewSealKey("glpat-of-a-test-only")
	require.NoError(t, err)
	start := lifeStart()
	start.GitLabURL, start.RunnerID, start.SealTo = s.URL+"/sub", "runner1", own.Public()
	l := live(t, start, `while [ ! -e $ROOT/go ]; do sleep 0.01; done; `+sayTook+`echo '{"job":8,"level":"info","msg":"Checking for jobs... received"}' >&2; `+sayDone, nil)
	l.until(firerunner.ReportStarted)
	config, err := os.ReadFile(l.root + gitlabrunner.SettingsFile)
	require.NoError(t, err)
	url := regexp.MustCompile(`\n  url = "(http://127\.0\.0\.1:\d+/sub)"\n`).FindSubmatch(config)
	require.NotNil(t, url, string(config))
	require.Contains(t, string(config), `clone_url = "`+s.URL+`/sub"`)
	require.Contains(t, string(config), `environment = ["CI_SERVER_TLS_CA_FILE=/run/firerunner/ca.pem"]`)
	require.Contains(t, string(config), `tls-ca-file = "/run/firerunner/ca.pem"`)

	res, err := http.Post(string(url[1])+"/api/v4/jobs/request", "application/json", strings.NewReader("{}"))
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	took := l.until(firerunner.ReportTookJob)
	require.Equal(t, int64(7), took.JobID)
	require.NotContains(t, string(took.JobKey), "glcbt-7")
	token, err := own.Open(took.JobKey, "runner1", 7)
	require.NoError(t, err)
	require.Equal(t, "glcbt-7", token.Reveal())

	require.NoError(t, os.WriteFile(l.root+"/go", nil, 0o644))
	require.NoError(t, <-l.end)
	require.Equal(t, []firerunner.GuestReport{ // the log's word on job 7 is no news, that on job 8 is
		{Kind: firerunner.ReportTookJob, JobID: 8}, {Kind: firerunner.ReportJobDone, JobID: 7, Success: true}, {Kind: firerunner.ReportRunnerExited},
	}, l.story(t))
	_, err = http.Get(string(url[1]))
	require.Error(t, err, "it ends with gitlab-runner")
}

func TestTrustCA(t *testing.T) {
	t.Parallel()
	const ca = "-----BEGIN CERTIFICATE-----\nours\n-----END CERTIFICATE-----\n"
	for name, tc := range map[string]struct{ before, want map[string]string }{
		"Debian": {
			map[string]string{"/etc/ssl/certs/ca-certificates.crt": "others", "/usr/local/share/ca-certificates/x.crt": "x"},
			map[string]string{"/etc/ssl/certs/ca-certificates.crt": "others\n" + ca, "/usr/local/share/ca-certificates/firerunner.crt": ca},
		},
		"Fedora": {
			map[string]string{"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem": "others\n", "/etc/pki/ca-trust/source/anchors/x": ""},
			map[string]string{"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem": "others\n" + ca, "/etc/pki/ca-trust/source/anchors/firerunner.crt": ca},
		},
		"none": {nil, map[string]string{"/etc/ssl/certs/ca-certificates.crt": ca}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := &agent{root: t.TempDir()}
			for path, text := range tc.before {
				require.NoError(t, os.MkdirAll(a.path(path[:strings.LastIndex(path, "/")]), 0o755))
				require.NoError(t, os.WriteFile(a.path(path), []byte(text), 0o644))
			}
			require.NoError(t, a.trustCA(""))
			require.NoError(t, a.trustCA(ca))
			require.NoError(t, a.trustCA(ca), "a second time changes nothing")
			for path, want := range tc.want {
				text, err := os.ReadFile(a.path(path))
				require.NoError(t, err)
				require.Equal(t, want, string(text), path)
			}
		})
	}
	a := &agent{root: t.TempDir()}
	require.Empty(t, a.caFile(firerunner.GuestStart{GitLabURL: "https://gitlab.test"}))
	require.NoError(t, os.MkdirAll(a.path("/etc/ssl"), 0o755))
	require.NoError(t, os.WriteFile(a.path("/etc/ssl/cert.pem"), nil, 0o644))
	for want, start := range map[string]firerunner.GuestStart{
		gitlabrunner.CAFile: {GitLabURL: "https://gitlab.test", CA: ca}, "/etc/ssl/cert.pem": {GitLabURL: "https://gitlab.test"}, "": {GitLabURL: "http://gitlab.test"},
	} {
		require.Equal(t, want, a.caFile(start))
	}

	a = &agent{root: t.TempDir()}
	require.NoError(t, os.MkdirAll(a.path("/etc/ssl/certs/ca-certificates.crt"), 0o755))
	require.ErrorContains(t, a.trustCA(ca), "make the system trust GitLab's CA")
}

func FuzzTakenJob(f *testing.F) {
	f.Add([]byte(aJob))
	f.Add([]byte(`{"ID":1,"Token":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if id, _, ok := takenJob(body); ok {
			require.Positive(t, id)
		}
	})
}
