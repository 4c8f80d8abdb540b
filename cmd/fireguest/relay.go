package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/guest"
)

// relay stands between gitlab-runner and GitLab, inside the microVM: gitlab-runner is given its address on the loopback
// interface and everything is passed on as it comes. It looks into one thing, GitLab's answer that gives a job: from that it
// takes the job's number and token, and has the token sealed and reported before the job can begin. So the host can speak
// for the job when this microVM cannot any more.
//
// It holds no credential. Whoever speaks to it in here gets what GitLab would give him anyway, and nothing of GitLab's host
// that he could not ask for himself.
type relay struct {
	listener net.Listener
	server   *http.Server
	upstream *http.Transport
	target   *url.URL
	taken    func(ctx context.Context, job int64, token firerunner.Secret)
	last     atomic.Int64 // the job that was reported last
	serving  sync.WaitGroup
}

const (
	jobRequest = "/api/v4/jobs/request" // https://docs.gitlab.com/api/runners/, lib/api/ci/runner.rb in GitLab
	// maxJobAnswer is the longest answer in bytes that is looked into; a longer one is passed on, and the host learns of
	// the job from gitlab-runner's log. A job has its variables in it, some of which hold whole files.
	maxJobAnswer = 16 << 20
	// handOver is how long the job waits for the host to have its key. The host answers in a millisecond or not at all.
	handOver = time.Second
)

// openRelay listens. pem is trusted besides the system's roots.
func openRelay(gitlabURL, pem string, taken func(context.Context, int64, firerunner.Secret)) (*relay, error) {
	target, err := url.Parse(gitlabURL)
	if err != nil || target.Host == "" {
		return nil, fmt.Errorf("open the relay: the URL of GitLab is not a URL")
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // an image without any, whose GitLab has a CA of its own
	}
	if pem != "" && !roots.AppendCertsFromPEM([]byte(pem)) && target.Scheme == "https" {
		return nil, fmt.Errorf("open the relay: no certificate in the CA that the host gave")
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open the relay: %w", err)
	}
	r := &relay{listener: listener, target: target, taken: taken, upstream: &http.Transport{
		// No proxy: gitlab-runner has never had the environment for one.
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 10 * time.Minute, // gitlab-runner's own: GitLab may hold a request for a job
		ExpectContinueTimeout: time.Second,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   4,
		DisableCompression:    true, // what comes compressed goes on compressed
	}}
	silent := log.New(io.Discard, "", 0)
	proxy := &httputil.ReverseProxy{
		Rewrite: r.rewrite, ModifyResponse: r.look, ErrorHandler: r.failed, Transport: r.upstream, FlushInterval: -1, ErrorLog: silent,
	}
	r.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, ErrorLog: silent, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, q *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex() // an answer may come before all of the request has gone
			proxy.ServeHTTP(w, q)
		},
	)}
	r.serving.Go(func() { _ = r.server.Serve(listener) }) // ended by close
	return r, nil
}

// url is what gitlab-runner is to take for GitLab's; the path is GitLab's own.
func (r *relay) url() string {
	return (&url.URL{Scheme: "http", Host: r.listener.Addr().String(), Path: r.target.Path}).String()
}

// close ends it, and with it what still goes through it.
func (r *relay) close() {
	_ = r.server.Close()
	r.serving.Wait()
	r.upstream.CloseIdleConnections()
}

func (r *relay) rewrite(p *httputil.ProxyRequest) {
	p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = r.target.Scheme, r.target.Host, r.target.Host
	p.Out.URL.RawQuery = p.In.URL.RawQuery // as it came, whatever it looks like
	for name, values := range p.In.Header {
		if strings.HasPrefix(name, "X-Forwarded-") || name == "Forwarded" { // taken out on the way here
			p.Out.Header[name] = values
		}
	}
	if r.asksForJob(p.Out) {
		p.Out.Header.Del("Accept-Encoding") // so that the answer can be read
	}
}

func (r *relay) asksForJob(q *http.Request) bool {
	return q.Method == http.MethodPost && q.URL.Path == strings.TrimRight(r.target.Path, "/")+jobRequest
}

// look takes from the answer that gives a job what the host has to know.
func (r *relay) look(resp *http.Response) error {
	if resp.StatusCode != http.StatusCreated || !r.asksForJob(resp.Request) {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxJobAnswer+1))
	if err != nil {
		return err
	}
	if len(body) > maxJobAnswer {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(body), resp.Body), resp.Body}
		return nil
	}
	_ = resp.Body.Close()
	resp.Body, resp.ContentLength, resp.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	resp.Header.Set("Content-Length", fmt.Sprint(len(body)))
	if id, token, ok := takenJob(body); ok {
		r.last.Store(id)
		r.taken(resp.Request.Context(), id, token)
	}
	return nil
}

// takenJob reads what is needed of a job, as gitlab-runner reads it.
func takenJob(body []byte) (id int64, token firerunner.Secret, ok bool) {
	var job struct {
		ID    int64  `json:"id"`
		Token string `json:"token"`
	}
	if json.Unmarshal(body, &job) != nil || job.ID <= 0 {
		return 0, "", false
	}
	return job.ID, firerunner.Secret(job.Token), true
}

// failed answers for GitLab where that cannot be reached, in the form that gitlab-runner writes into its log.
func (r *relay) failed(w http.ResponseWriter, q *http.Request, err error) {
	body, _ := json.Marshal(map[string]string{"message": "GitLab cannot be reached from the microVM: " + guest.Text(err.Error(), maxText)})
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadGateway)
	_, _ = w.Write(body)
}

// reported reports whether the host was told of a job already.
func (r *relay) reported(job int64) bool { return r != nil && r.last.Load() == job }

// tookJob tells the host which job gitlab-runner is about to begin, with its token sealed, and waits a moment for the host
// to have it.
func (a *agent) tookJob(start firerunner.GuestStart) func(context.Context, int64, firerunner.Secret) {
	return func(ctx context.Context, job int64, token firerunner.Secret) {
		key, err := firerunner.SealJobKey(start.SealTo, start.RunnerID, job, token)
		if err != nil {
			a.con.problem(err) // GitLab will find out by itself, in an hour
		}
		a.channel.Report(guest.FromGuest{Kind: firerunner.ReportTookJob, JobID: job, JobKey: key})
		ctx, cancel := context.WithTimeout(ctx, handOver)
		defer cancel()
		_ = a.channel.Flush(ctx)
	}
}
