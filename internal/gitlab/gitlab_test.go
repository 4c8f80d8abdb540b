package gitlab

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/firerunner/firerunner"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testToken = "glpat-test0123456789abcdef"

// asked is one request as a server saw it.
type asked struct {
	method, path, query, token, agent string
	body                              string
}

// server is a small GitLab that answers by a function and remembers what it was asked.
type server struct {
	*httptest.Server
	mu   sync.Mutex
	seen []asked
}

func newServer(t *testing.T, answer http.HandlerFunc) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewServer(s.remember(answer))
	t.Cleanup(s.Close)
	return s
}

func (s *server) remember(answer http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.seen = append(s.seen, asked{
			r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("PRIVATE-TOKEN"), r.UserAgent(), string(body),
		})
		s.mu.Unlock()
		answer(w, r)
	})
}

func (s *server) requests() []asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]asked(nil), s.seen...)
}

// newClient makes a client with a short patience; change may set more.
func newClient(t *testing.T, url string, change ...func(*Config)) *Client {
	t.Helper()
	cfg := Config{
		URL: url, Token: StaticToken(testToken), Version: "1.2.3",
		Timeout: 5 * time.Second, RetryWait: time.Millisecond,
	}
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// text answers every request the same.
func text(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func request() firerunner.CredentialRequest {
	return firerunner.CredentialRequest{
		ProjectID: 7, Tags: firerunner.NewTagSet("firecracker-2cpu-4gb", "deploy"),
		Description: "firerunner/test/0123456789abcdef", MaxTimeout: time.Hour,
	}
}

// everyCall is each method of the port, for what holds for all of them.
func everyCall() map[string]func(context.Context, *Client) error {
	return map[string]func(context.Context, *Client) error{
		"CreateRunner": func(ctx context.Context, c *Client) error { _, err := c.CreateRunner(ctx, request()); return err },
		"FindRunners":  func(ctx context.Context, c *Client) error { _, err := c.FindRunners(ctx, 7, "x"); return err },
		"FindAll":      func(ctx context.Context, c *Client) error { _, err := c.FindRunners(ctx, 0, "x"); return err },
		"PauseRunner":  func(ctx context.Context, c *Client) error { return c.PauseRunner(ctx, 3) },
		"DeleteRunner": func(ctx context.Context, c *Client) error { return c.DeleteRunner(ctx, 3) },
		"RunnerJobs":   func(ctx context.Context, c *Client) error { _, err := c.RunnerJobs(ctx, 3); return err },
		"Job":          func(ctx context.Context, c *Client) error { _, err := c.Job(ctx, 7, 42); return err },
		"PendingJobs":  func(ctx context.Context, c *Client) error { _, err := c.PendingJobs(ctx, 7); return err },
		"Check":        func(ctx context.Context, c *Client) error { _, err := c.Check(ctx); return err },
	}
}
