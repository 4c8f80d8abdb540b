package image

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/firerunner/firerunner"
)

// Registry is a way to a container registry. The zero value is one over TLS, with the system's authorities, and
// with what "docker login" has left.
type Registry struct {
	Username string            // with Password, in place of docker's configuration file
	Password firerunner.Secret // or token
	CAFile   string            // a PEM file with more authorities
	Insecure bool              // plain HTTP, and certificates that nobody has signed, are good enough. Loopback always may be plain.

	Agent string           // what this program calls itself
	Keys  authn.Keychain   // authn.DefaultKeychain: docker's configuration file
	Pause time.Duration    // before the second try; doubled each time: 1 s
	Stall time.Duration    // with not one byte in either direction, a request is given up: 60 s
	Limit int64            // bytes of all compressed layers of one image: 16 GiB
	Now   func() time.Time // time.Now
}

const tries = 5 // of each request, and of each layer

// connection is a registry in use, for one repository.
type connection struct {
	Registry
	ref     name.Reference
	options []remote.Option
	close   func()
}

// connect checks a reference and makes what is needed to ask for it. Nothing is sent yet.
func (g Registry) connect(ctx context.Context, ref string) (*connection, error) {
	if g.Pause == 0 {
		g.Pause = time.Second
	}
	if g.Stall == 0 {
		g.Stall = time.Minute
	}
	if g.Limit == 0 {
		g.Limit = 16 << 30
	}
	if g.Keys == nil {
		g.Keys = authn.DefaultKeychain
	}
	if g.Now == nil {
		g.Now = time.Now
	}
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Invalid, "image reference %.200q: it is not one", ref).
			WithHint("such as registry.example.com/team/image:tag, or the same with @sha256:...")
	}
	plain := g.Insecure || loopback(parsed.Context().RegistryStr())
	if plain {
		if parsed, err = name.ParseReference(ref, name.Insecure); err != nil {
			return nil, firerunner.Errorf(firerunner.Invalid, "image reference: %w", err)
		}
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: g.Insecure} //nolint:gosec // G402: asked for by name, for a registry of one's own
	if g.CAFile != "" {
		pem, err := os.ReadFile(g.CAFile)
		if err != nil {
			return nil, firerunner.Errorf(firerunner.Invalid, "read the registry's authorities: %w", err)
		}
		if config.RootCAs, err = x509.SystemCertPool(); err != nil {
			config.RootCAs = x509.NewCertPool()
		}
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, firerunner.Errorf(firerunner.Invalid, "read the registry's authorities: no certificate in %s", g.CAFile)
		}
	}
	base := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, ForceAttemptHTTP2: true,
		DialContext:         (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 15 * time.Second, IdleConnTimeout: 30 * time.Second, MaxIdleConnsPerHost: 4,
		MaxResponseHeaderBytes: 64 << 10,
	}
	options := []remote.Option{
		remote.WithContext(ctx), remote.WithUserAgent(g.Agent), remote.WithJobs(2),
		remote.WithTransport(&guard{next: base, insecure: g.Insecure, stall: g.Stall}),
		remote.WithRetryBackoff(remote.Backoff{Duration: g.Pause, Factor: 2, Jitter: 0.1, Steps: tries}),
		remote.WithRetryPredicate(passing),
		remote.WithRetryStatusCodes(http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout),
	}
	if g.Username != "" {
		options = append(options, remote.WithAuth(&authn.Basic{Username: g.Username, Password: g.Password.Reveal()}))
	} else {
		options = append(options, remote.WithAuthFromKeychain(g.Keys))
	}
	return &connection{Registry: g, ref: parsed, options: options, close: base.CloseIdleConnections}, nil
}

// loopback reports whether a registry is on this machine.
func loopback(registry string) bool {
	host := registry
	if h, _, err := net.SplitHostPort(registry); err == nil {
		host = h
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// passing reports whether an error may go away by itself.
func passing(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, errPlain) {
		return false
	}
	var refused *transport.Error
	if errors.As(err, &refused) {
		return refused.Temporary()
	}
	var network net.Error
	return errors.As(err, &network) && network.Timeout() || errors.Is(err, errStalled) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed)
}

// fail says what went wrong with a registry, and what to do.
func (c *connection) fail(doing string, err error) error {
	var known *firerunner.Error
	if errors.As(err, &known) {
		return firerunner.Errorf(known.Code, "%s %s: %w", doing, c.ref, err).WithHint("%s", firerunner.HintOf(err))
	}
	code, hint := firerunner.Unavailable, ""
	var refused *transport.Error
	switch {
	case errors.Is(err, errPlain):
		code, hint = firerunner.Invalid, "--insecure permits it, for a registry of your own"
	case errors.As(err, &refused) && (refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden):
		code, hint = firerunner.Unauthorized, "docker login, or --username and --password-file"
	case errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound:
		code, hint = firerunner.NotFound, "check the name and the tag; some registries say so of what may not be read, too"
	case errors.As(err, new(*tls.CertificateVerificationError)):
		hint = "--ca-file names the authority that signed the registry's certificate"
	}
	e := firerunner.Errorf(code, "%s %s: %w", doing, c.ref, err)
	if hint != "" {
		e = e.WithHint("%s", hint)
	}
	return e
}

var (
	errPlain   = errors.New("the registry speaks plain HTTP")
	errStalled = errors.New("nothing came for too long")
)

// guard is the transport below everything: no plain HTTP to another machine, whatever a redirect or a registry's
// answer says, and an end to requests that stand still.
type guard struct {
	next     http.RoundTripper
	insecure bool
	stall    time.Duration
}

// RoundTrip sends one request.
func (g *guard) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Scheme != "https" && !g.insecure && !loopback(request.URL.Host) {
		return nil, fmt.Errorf("%w: %s", errPlain, request.URL.Host)
	}
	ctx, cancel := context.WithCancelCause(request.Context())
	timer := time.AfterFunc(g.stall, func() { cancel(errStalled) })
	watch := &watched{timer: timer, stall: g.stall, end: func() { timer.Stop(); cancel(nil) }, ctx: ctx}
	request = request.WithContext(ctx)
	if request.Body != nil && request.Body != http.NoBody {
		request.Body = &watchedBody{ReadCloser: request.Body, watch: watch}
	}
	answer, err := g.next.RoundTrip(request)
	if err != nil {
		err = watch.explain(err)
		watch.end()
		return nil, err
	}
	answer.Body = &watchedBody{ReadCloser: answer.Body, watch: watch, last: true}
	return answer, nil
}

// watched is one request that must go on.
type watched struct {
	timer *time.Timer
	stall time.Duration
	end   func()
	ctx   context.Context
}

// explain puts in place of "context canceled" why we ended it.
func (w *watched) explain(err error) error {
	if cause := context.Cause(w.ctx); errors.Is(cause, errStalled) {
		return cause
	}
	return err
}

type watchedBody struct {
	io.ReadCloser
	watch *watched
	last  bool // with it the request ends
}

// Read notes that something moves.
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.watch.timer.Reset(b.watch.stall)
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.watch.explain(err)
	}
	return n, err
}

// Close ends the watch with the answer.
func (b *watchedBody) Close() error {
	if b.last {
		b.watch.end()
	}
	return b.ReadCloser.Close()
}
