package gitlab

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/firerunner/firerunner"
)

const (
	// mostAnswerBytes bounds an answer after decompression. A page of 100 jobs with commits, users and projects has
	// less than 2 MiB.
	mostAnswerBytes = 16 << 20
	// mostErrorBytes is how much of an error's answer is read.
	mostErrorBytes = 16 << 10
	// mostRedirects is how many redirects within GitLab's own address are followed.
	mostRedirects = 3
)

// errRefused marks what we did not send or did not read on purpose: trying again cannot help.
var errRefused = errors.New("refused")

// transport is the last thing before the connection. It alone knows the token, and sends it to GitLab's own scheme
// and host only: http.Client copies unknown headers such as PRIVATE-TOKEN to wherever a redirect points
// (https://pkg.go.dev/net/http#Client, "redirects"). It bounds what comes back, and lets Observe see each request.
type transport struct {
	next    http.RoundTripper
	base    *url.URL
	token   TokenSource
	observe func(op string, code int, took time.Duration)
	now     func() time.Time
	most    int64 // bytes of an answer
	quotas  quotas
}

func newTransport(cfg Config, base *url.URL) (*transport, error) {
	roots, err := trustedRoots(cfg.CAFile)
	if err != nil {
		return nil, err
	}
	proxy := cfg.Proxy
	if proxy == nil {
		proxy = httpproxy.FromEnvironment().ProxyFunc()
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return &transport{
		base: base, token: cfg.Token, observe: cfg.Observe, now: cfg.Now, most: mostAnswerBytes,
		next: &http.Transport{
			Proxy:                  func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    10 * time.Second,
			ResponseHeaderTimeout:  cfg.Timeout,
			IdleConnTimeout:        90 * time.Second,
			MaxIdleConnsPerHost:    16,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
		},
	}, nil
}

// trustedRoots are the system's roots and those of the file.
func trustedRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil // the system's
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Invalid, "gitlab: reading the CA file: %w", err).
			WithHint("check gitlab.ca_file")
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, firerunner.Errorf(firerunner.Invalid, "gitlab: no certificate in the CA file %s", file).
			WithHint("gitlab.ca_file must hold certificates in PEM form (-----BEGIN CERTIFICATE-----)")
	}
	return roots, nil
}

// RoundTrip sends one request.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != t.base.Scheme || r.URL.Host != t.base.Host {
		closeBody(r)
		return nil, fmt.Errorf("%w: a request to another host", errRefused)
	}
	if r.Header.Get(jobToken) == "" { // a job that speaks for itself does so with its own token alone
		token, err := t.token()
		if err != nil {
			closeBody(r)
			return nil, errors.Join(errRefused, err)
		}
		r = r.Clone(r.Context())
		r.Header.Set("PRIVATE-TOKEN", token.Reveal())
	}

	op, _ := r.Context().Value(callName{}).(string)
	began := t.now()
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		t.observe(op, 0, t.now().Sub(began))
		return nil, err
	}
	t.observe(op, resp.StatusCode, t.now().Sub(began))
	t.quotas.note(resp, t.now())
	resp.Header.Del("Link") // we page by X-Next-Page; client-go panics on a Link header without "="
	if resp.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, mostErrorBytes))
		resp.Body.Close()
		resp.Body = &errorBody{Reader: bytes.NewReader(text), text: text}
		resp.ContentLength = int64(len(text))
		return resp, nil
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: t.most}
	return resp, nil
}

// CloseIdleConnections is called by http.Client's method of that name.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		r.Body.Close()
	}
}

// errorBody is the bounded answer of a request that failed; it can be read again after client-go did.
type errorBody struct {
	io.Reader
	text []byte
}

// Close does nothing: the connection was given back already.
func (*errorBody) Close() error { return nil }

// boundedBody fails, rather than ends, where an answer is too large.
type boundedBody struct {
	io.ReadCloser
	left int64
}

// Read reads until the bound.
func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("%w: the answer is too large", errRefused)
	}
	return n, err
}

// redirectError says that GitLab pointed elsewhere and we did not go.
type redirectError struct{ target string }

func (e *redirectError) Error() string { return "GitLab redirects to " + e.target }

// checkRedirect follows reads within one scheme and host, and nothing else: not a POST, which would be sent twice,
// and not to any other place.
func checkRedirect(r *http.Request, via []*http.Request) error {
	first := via[0]
	if len(via) <= mostRedirects && first.Method == http.MethodGet &&
		r.URL.Scheme == first.URL.Scheme && r.URL.Host == first.URL.Host {
		return nil
	}
	return &redirectError{target: clean(r.URL.Scheme+"://"+r.URL.Host, 200)}
}
