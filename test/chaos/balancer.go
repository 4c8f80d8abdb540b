package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// balancer is what stands before the controllers of one site: it gives each webhook to the next one that lives. It tries
// once; what is refused or cut off is lost.
type balancer struct {
	site     *site
	listener net.Listener
	server   *http.Server
	client   *http.Client
	next     atomic.Int64
	sent     atomic.Int64
	lost     atomic.Int64
}

func newBalancer(s *site) (*balancer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &balancer{site: s, listener: l, client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	b.server = &http.Server{Handler: b, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = b.server.Serve(l) }()
	return b, nil
}

func (b *balancer) url() string { return "http://" + b.listener.Addr().String() + "/webhook" }

func (b *balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.sent.Add(1)
	status, err := b.forward(r)
	if err != nil || status >= http.StatusInternalServerError {
		b.lost.Add(1)
		status = http.StatusBadGateway
	}
	w.WriteHeader(status)
}

func (b *balancer) forward(r *http.Request) (int, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err
	}
	first := int(b.next.Add(1))
	for i := range b.site.controllers {
		c := b.site.controllers[(first+i)%len(b.site.controllers)]
		if _, lives := c.lives(); !lives {
			continue
		}
		request, err := http.NewRequestWithContext(r.Context(), r.Method, fmt.Sprintf("http://127.0.0.1:%d%s", c.port, r.URL.Path), bytes.NewReader(body))
		if err != nil {
			return 0, err
		}
		request.Header = r.Header.Clone()
		answer, err := b.client.Do(request)
		if err != nil {
			return 0, err
		}
		defer answer.Body.Close()
		return answer.StatusCode, nil
	}
	return 0, fmt.Errorf("nobody lives")
}
