package gitlabtest_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/firerunner/firerunner/internal/gitlabtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is one emulator with one project, and a plain HTTP client.
type fixture struct {
	*gitlabtest.Server
	t       *testing.T
	ctx     context.Context
	project *gitlabtest.Project
	token   string
	client  *http.Client
}

func start(t *testing.T, change ...func(*gitlabtest.Config)) *fixture {
	t.Helper()
	cfg := gitlabtest.Config{Dir: t.TempDir()}
	for _, c := range change {
		c(&cfg)
	}
	srv, err := gitlabtest.Start(cfg)
	require.NoError(t, err)
	transport := &http.Transport{}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(func() {
		cancel()
		transport.CloseIdleConnections()
		require.NoError(t, srv.Close())
	})
	project, err := srv.CreateProject("group/app", map[string]string{"README.md": "hello from the repository\n"})
	require.NoError(t, err)
	return &fixture{
		Server: srv, t: t, ctx: ctx, project: project, token: srv.CreateToken("api"), client: &http.Client{Transport: transport},
	}
}

// push makes a pipeline of a CI file and returns its jobs in order.
func (f *fixture) push(ci string) []gitlabtest.Job {
	f.t.Helper()
	p, err := f.Push(f.project.ID, map[string]string{".gitlab-ci.yml": ci})
	require.NoError(f.t, err)
	return f.Jobs(gitlabtest.JobFilter{PipelineID: p.ID})
}

// runner makes a runner of the fixture's project.
func (f *fixture) runner(tags ...string) gitlabtest.Runner {
	return f.CreateRunner(gitlabtest.Runner{ProjectIDs: []int64{f.project.ID}, Tags: tags, RunUntagged: len(tags) == 0})
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) decode(t *testing.T, into any) {
	t.Helper()
	require.NoError(t, json.Unmarshal(a.body, into), "body: %s", a.body)
}

// do sends a request; a body that is not a string is sent as JSON. Header pairs follow.
func (f *fixture) do(method, path string, body any, header ...string) answer {
	f.t.Helper()
	a, err := f.try(method, path, body, header...)
	require.NoError(f.t, err)
	return a
}

func (f *fixture) try(method, path string, body any, header ...string) (answer, error) {
	f.t.Helper()
	var in io.Reader
	kind := ""
	switch b := body.(type) {
	case nil:
	case string:
		in = strings.NewReader(b)
	case []byte:
		in = bytes.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		require.NoError(f.t, err)
		in, kind = bytes.NewReader(raw), "application/json"
	}
	r, err := http.NewRequestWithContext(f.ctx, method, f.URL()+path, in)
	require.NoError(f.t, err)
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	response, err := f.client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	return answer{status: response.StatusCode, header: response.Header, body: raw}, err
}

// api calls the REST API with the fixture's token.
func (f *fixture) api(method, path string, body any) answer {
	f.t.Helper()
	return f.do(method, "/api/v4"+path, body, "PRIVATE-TOKEN", f.token)
}

type object = map[string]any

// taken is the part of a job's payload that the tests look at.
type taken struct {
	ID        int64
	Token     string
	Variables []struct {
		Key, Value string
		Masked     bool
	}
	Steps []struct {
		Name   string
		Script []string
	}
	Dependencies []struct {
		ID    int64
		Token string
	}
	RunnerInfo struct{ Timeout int64 } `json:"runner_info"`
}

// take requests a job for a runner and expects one.
func (f *fixture) take(r gitlabtest.Runner) taken {
	f.t.Helper()
	a := f.request(r.Token, "")
	require.Equal(f.t, http.StatusCreated, a.status, "%s", a.body)
	require.Equal(f.t, "application/json", a.header.Get("Content-Type"))
	var j taken
	a.decode(f.t, &j)
	return j
}

func (f *fixture) request(token, lastUpdate string) answer {
	f.t.Helper()
	return f.do("POST", "/api/v4/jobs/request", object{
		"token": token, "last_update": lastUpdate, "system_id": "s_0123456789ab",
		"info": object{"version": "19.4.0", "features": object{"cancel_gracefully": true}},
	})
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// clock is a clock that moves when told to.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 23, 8, 25, 24, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
