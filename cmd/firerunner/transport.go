package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"os"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/firerunner/firerunner"
)

// transport makes connections as doctor needs them: through the proxy of this run's environment, trusting the
// authorities in caFile besides the machine's.
func (a *app) transport(caFile string) (*http.Transport, error) {
	proxy := httpproxy.Config{
		HTTPProxy:  cmp.Or(a.env("HTTP_PROXY"), a.env("http_proxy")),
		HTTPSProxy: cmp.Or(a.env("HTTPS_PROXY"), a.env("https_proxy")),
		NoProxy:    cmp.Or(a.env("NO_PROXY"), a.env("no_proxy")),
	}
	t := &http.Transport{
		Proxy:                 func(r *http.Request) (*url.URL, error) { return proxy.ProxyFunc()(r.URL) },
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 20 * time.Second,
	}
	if caFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Invalid, "reading gitlab.ca_file: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, firerunner.Errorf(firerunner.Invalid, "reading gitlab.ca_file: %s has no certificate", caFile)
	}
	t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return t, nil
}
