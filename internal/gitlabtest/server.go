package gitlabtest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Config says how a [Server] behaves. The zero value of every field but Dir is usable.
type Config struct {
	// Addr is the address to listen on; default 127.0.0.1:0.
	Addr string
	// Certificate makes it speak HTTPS, and nothing else; nil is plain HTTP.
	Certificate *tls.Certificate
	// Dir is where bare repositories and artifacts are kept. Required; the caller removes it.
	Dir string
	// ExternalURL is the base that the emulator uses in everything it tells others: clone URLs,
	// CI_SERVER_URL, web links, X-Gitlab-Instance. Default: the listen URL.
	ExternalURL string
	// Version is what GET /version and the hooks' User-Agent say; default 19.4.0-ee.
	Version string
	// LongPoll is how long POST /jobs/request is held when the runner's last_update is
	// current. Default 50 s, as Workhorse has it; negative switches holding off.
	LongPoll time.Duration
	// HookTimeout bounds one webhook delivery; default 10 s.
	HookTimeout time.Duration
	// AutoDisableHooks switches a failing hook off after 4 failures in a row, as GitLab.com does.
	// Self-Managed has this off by default, and so has the emulator.
	AutoDisableHooks bool
	// IgnoreSigningTokens ignores a hook's signing_token in silence, as GitLab before 19.0 does.
	IgnoreSigningTokens bool
	// HookResendsPerMinute limits test and resend requests; default 5, negative is no limit.
	HookResendsPerMinute int
	// JobTimeout is the timeout of a job that names none; default 1 h.
	JobTimeout time.Duration
	// TimeoutGrace is how long after its timeout a job that still runs is failed by
	// [Server.SweepTimeouts]; default 15 min.
	TimeoutGrace time.Duration
	// SilenceLimit is how long nothing may be heard of a running job (log, update) until SweepTimeouts fails it; default
	// 1 h. GitLab 19 can be set to 30 min.
	SilenceLimit time.Duration
	// SweepInterval makes the server call SweepTimeouts by itself; 0 is never.
	SweepInterval time.Duration
	// TraceUpdateInterval is sent as X-GitLab-Trace-Update-Interval, in whole seconds; default 3 s.
	TraceUpdateInterval time.Duration
	// MaxTraceBytes fails a job whose log grows larger; default 100 MiB.
	MaxTraceBytes int64
	// MaxArtifactBytes answers 413 to a larger upload; default 100 MiB.
	MaxArtifactBytes int64
	// Seed seeds the faults that are given as a percentage.
	Seed uint64
	// Now is the clock of all recorded times; default time.Now.
	Now func() time.Time
	// Rand is where tokens and ids come from; default crypto/rand.
	Rand io.Reader
	// Logger takes one line per transition; default: discard.
	Logger *slog.Logger
}

// Server is an emulated GitLab, listening from [Start] to [Server.Close].
// All its methods may be called from many goroutines.
type Server struct {
	cfg      Config
	url      string
	external string
	log      *slog.Logger

	http   *http.Server
	mux    *http.ServeMux
	client *http.Client // sends webhooks
	ctx    context.Context
	cancel context.CancelCauseFunc
	tasks  sync.WaitGroup

	mu      sync.Mutex // guards state and everything reachable from it
	changed chan struct{}
	state   state
}

var errClosed = errors.New("gitlabtest: server closed")

// Start listens and serves until Close.
func Start(cfg Config) (*Server, error) {
	if cfg.Dir == "" {
		return nil, errors.New("starting the GitLab emulator: Config.Dir is empty")
	}
	cfg = cfg.withDefaults()
	for _, dir := range []string{"repositories", "artifacts"} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, dir), 0o700); err != nil {
			return nil, fmt.Errorf("starting the GitLab emulator: %w", err)
		}
	}
	listener, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("starting the GitLab emulator: %w", err)
	}
	scheme := "http"
	if cfg.Certificate != nil {
		scheme = "https"
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{*cfg.Certificate}, MinVersion: tls.VersionTLS12})
	}

	s := &Server{
		cfg:     cfg,
		url:     scheme + "://" + listener.Addr().String(),
		log:     cfg.Logger,
		mux:     http.NewServeMux(),
		changed: make(chan struct{}),
		state:   newState(cfg.Seed),
	}
	s.external = s.url
	if cfg.ExternalURL != "" {
		s.external = strings.TrimRight(cfg.ExternalURL, "/")
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	// A hook's receiver is given a fresh connection pool of ours, so that Close leaves nothing open.
	s.client = &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 4},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
	s.routes()
	s.http = &http.Server{
		Handler:           s.front(),
		ReadHeaderTimeout: 30 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.tasks.Go(func() {
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("gitlab emulator stopped serving", "error", err)
		}
	})
	if cfg.SweepInterval > 0 {
		s.tasks.Go(s.sweepLoop)
	}
	return s, nil
}

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if c.Addr == "" {
		c.Addr = "127.0.0.1:0"
	}
	if c.Version == "" {
		c.Version = "19.4.0-ee"
	}
	set(&c.LongPoll, 50*time.Second)
	set(&c.HookTimeout, 10*time.Second)
	set(&c.JobTimeout, time.Hour)
	set(&c.TimeoutGrace, 15*time.Minute)
	set(&c.SilenceLimit, time.Hour)
	set(&c.TraceUpdateInterval, 3*time.Second)
	if c.HookResendsPerMinute == 0 {
		c.HookResendsPerMinute = 5
	}
	if c.MaxTraceBytes == 0 {
		c.MaxTraceBytes = 100 << 20
	}
	if c.MaxArtifactBytes == 0 {
		c.MaxArtifactBytes = 100 << 20
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// URL is where the server listens, without a trailing slash.
func (s *Server) URL() string { return s.url }

// ExternalURL is the base of every link and clone URL that the server hands out.
func (s *Server) ExternalURL() string { return s.external }

// closePatience is longer than the 5 s that Shutdown waits for a connection on which nothing was ever asked: clients keep
// such where two dialled at once.
const closePatience = 15 * time.Second

// Close ends every request, delivery and loop, and waits for them. Hooks still queued are lost.
func (s *Server) Close() error {
	s.cancel(errClosed)
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	s.tasks.Wait()
	s.client.CloseIdleConnections()
	if err != nil {
		return fmt.Errorf("closing the GitLab emulator: %w", err)
	}
	return nil
}

// touch wakes everyone who waits for a change of state. The caller holds mu.
func (s *Server) touch() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// await returns when done reports true, looking again after every change of state.
// done is called with mu held.
func (s *Server) await(ctx context.Context, done func() bool) error {
	for {
		s.mu.Lock()
		ok, changed := done(), s.changed
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.ctx.Done():
			return errClosed
		}
	}
}

// pause waits for d, less when the request or the server ends. It is only used to be slow on demand.
func (s *Server) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
}

func (s *Server) now() time.Time { return s.cfg.Now().UTC().Truncate(time.Millisecond) }
