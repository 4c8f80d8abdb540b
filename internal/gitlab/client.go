// Package gitlab asks GitLab's REST API for what FireRunner needs: runners made and removed, jobs read, and a sign
// of life. It is the only package that knows GitLab's wire format, and the only one that holds FireRunner's own
// token.
//
// Three rules hold for every call. A POST is sent once: client-go's default repeats it up to six times after a 502,
// which makes six runners (its default CheckRetry, https://gitlab.com/gitlab-org/api/client-go). Calls that are safe
// to repeat are tried a few times within the call's deadline. And the token is added where the connection is chosen
// (transport.go), so that no redirect, log or error can carry it elsewhere.
package gitlab

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	gl "gitlab.com/gitlab-org/api/client-go/v2"
	"golang.org/x/time/rate"

	"github.com/firerunner/firerunner"
)

// Config is what a Client needs. URL and Token are required; everything else has a default.
type Config struct {
	URL     string      // of GitLab, as people open it: https://gitlab.example.com, with a path if it has one
	Token   TokenSource // FireRunner's own token; see StaticToken and TokenFile
	CAFile  string      // PEM file that is trusted besides the system's roots
	Version string      // of FireRunner, for the User-Agent

	Timeout   time.Duration // longest that one call (one page of a list) may take, repetitions included; 30 s
	PageSize  int           // entries in a page; 100, which is GitLab's most
	MaxPages  int           // pages after which a list counts as endless; 100
	Attempts  int           // how often a call that is safe to repeat is tried; 3
	RetryWait time.Duration // pause before the second attempt, doubled for each further one; 300 ms
	PerSecond float64       // most requests in a second; 0 = no limit of ours

	Proxy   func(*url.URL) (*url.URL, error)              // nil: HTTPS_PROXY, HTTP_PROXY and NO_PROXY, read by New
	Observe func(op string, code int, took time.Duration) // each request; code 0 = no answer; nil: nobody looks
	Logger  *slog.Logger                                  // nil: nothing is logged
	Now     func() time.Time                              // nil: time.Now
}

// Client implements firerunner.GitLab. It may be used by several goroutines.
type Client struct {
	api      *gl.Client
	http     *http.Client
	quotas   *quotas
	base     *url.URL
	agent    string
	token    TokenSource
	timeout  time.Duration
	pageSize int
	maxPages int
	now      func() time.Time
	log      *slog.Logger

	lastLines sync.Map // jobs (int64) whose last line is written while they are still to be failed: once is enough
}

var _ firerunner.GitLab = (*Client)(nil)

// New makes a client. It sends nothing yet: Check is the first sign of life. Its errors are Invalid.
func New(cfg Config) (*Client, error) {
	base, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	if cfg.Token == nil {
		return nil, firerunner.Errorf(firerunner.Invalid, "gitlab: no token is configured").
			WithHint("make an access token with the scopes create_runner, manage_runner and read_api, and set gitlab.token_file")
	}
	cfg = withDefaults(cfg)
	transport, err := newTransport(cfg, base)
	if err != nil {
		return nil, err
	}
	c := &Client{
		http:     &http.Client{Transport: transport, CheckRedirect: checkRedirect},
		quotas:   &transport.quotas,
		base:     base,
		agent:    "FireRunner/" + cfg.Version,
		token:    cfg.Token,
		timeout:  cfg.Timeout,
		pageSize: cfg.PageSize,
		maxPages: cfg.MaxPages,
		now:      cfg.Now,
		log:      cfg.Logger,
	}
	own := limiter{rate.NewLimiter(rate.Inf, 0)}
	if cfg.PerSecond > 0 {
		own = limiter{rate.NewLimiter(rate.Limit(cfg.PerSecond), max(1, int(cfg.PerSecond)))}
	}
	c.api, err = gl.NewAuthSourceClient(gl.Unauthenticated{}, // the transport adds the token
		gl.WithBaseURL(base.String()),
		gl.WithHTTPClient(c.http),
		gl.WithUserAgent(c.agent),
		gl.WithCustomLimiter(own), // client-go's is set without a lock by the first answer, and then waits unasked
		gl.WithOnlyIdempotentRetries(),
		gl.WithCustomRetry(neverAgain), // each call that may be repeated says so (again)
		gl.WithCustomRetryMax(cfg.Attempts-1),
		gl.WithCustomBackoff(func(_, _ time.Duration, attempt int, _ *http.Response) time.Duration {
			wait := cfg.RetryWait << min(attempt, 10)
			return wait + rand.N(wait/2+1)
		}),
	)
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Invalid, "gitlab: preparing the client: %w", err)
	}
	if base.Scheme == "http" && !loopback(base.Hostname()) {
		c.log.Warn("gitlab is asked over plain http: the token can be read on the way", "url", base.String())
	}
	return c, nil
}

// limiter is our own bound on requests. Where the call would end before its turn comes, it is refused at once.
type limiter struct{ *rate.Limiter }

// Wait waits for its turn.
func (l limiter) Wait(ctx context.Context) error {
	if err := l.Limiter.Wait(ctx); err != nil && ctx.Err() == nil {
		return firerunner.Errorf(firerunner.Exhausted, "FireRunner's own limit on requests to GitLab is reached: %w", err).
			WithHint("lengthen sweep.interval or lower scheduler.worker_count")
	}
	return ctx.Err()
}

// Close gives back the connections that are kept open between calls.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

func withDefaults(cfg Config) Config {
	if cfg.Version == "" {
		cfg.Version = "dev"
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.PageSize <= 0 || cfg.PageSize > 100 {
		cfg.PageSize = 100
	}
	if cfg.MaxPages <= 0 {
		cfg.MaxPages = 100
	}
	if cfg.Attempts <= 0 {
		cfg.Attempts = 3
	}
	if cfg.RetryWait <= 0 {
		cfg.RetryWait = 300 * time.Millisecond
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, int, time.Duration) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return cfg
}

// parseURL accepts http and https addresses without anything that does not belong in one.
func parseURL(raw string) (*url.URL, error) {
	bad := func(why string) error {
		return firerunner.Errorf(firerunner.Invalid, "gitlab: the URL %s", why).
			WithHint("set gitlab.url to the address that people open, such as https://gitlab.example.com")
	}
	u, err := url.Parse(strings.TrimSpace(raw))
	switch {
	case raw == "":
		return nil, bad("is empty")
	case err != nil:
		return nil, bad("cannot be read")
	case u.User != nil:
		return nil, bad("holds a user or password; the token has a setting of its own")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, bad("must begin with https:// or http://")
	case u.Hostname() == "":
		return nil, bad("names no host")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, bad("must end with the path")
	}
	u.Path = strings.TrimSuffix(strings.TrimSuffix(strings.TrimRight(u.Path, "/"), "/api/v4"), "/")
	u.RawPath = ""
	return u, nil
}

// callName is the key under which a request's context carries the name of the call, for Observe.
type callName struct{}

// call makes one request by send, with the deadline of one call, and gives its error a code. op is the short name of
// the call in metrics, doing what we were doing, for the error.
func call[T any](ctx context.Context, c *Client, op, doing string,
	send func(opts ...gl.RequestOptionFunc) (T, *gl.Response, error),
) (T, *gl.Response, error) {
	within, cancel := context.WithTimeout(context.WithValue(ctx, callName{}, op), c.timeout)
	defer cancel()
	answer, resp, err := send(gl.WithContext(within))
	if err != nil {
		var none T
		return none, resp, c.failed(ctx, doing, resp, err)
	}
	return answer, resp, nil
}
