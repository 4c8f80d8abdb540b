package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
)

// How the daemon speaks with a shim: HTTP on its unix socket. The daemon may be newer or older than the shim, so
// what stands here stays as it is:
//
//	GET  /v1/state             shimState
//	GET  /v1/reports?after=N   one report a line, until ReportExited
//	POST /v1/order?name=finish 204
//	POST /v1/destroy           204 once qemu is gone
//
// An error has a status of 400 or more and an answer in its body.
const (
	orderWait   = 5 * time.Second
	closingWait = 2 * time.Second
)

// shimState is a shim's word on its microVM.
type shimState struct {
	Started bool  // qemu was started
	Ended   bool  // and has ended
	Console int64 // bytes that the guest wrote to its console
}

// server answers the daemon.
type server struct {
	http *http.Server
	done sync.WaitGroup
	once sync.Once
	path string
}

func serve(h *holder, path string) (*server, error) {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/state", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(h.state()) })
	mux.HandleFunc("GET /v1/reports", h.serveReports)
	mux.HandleFunc("POST /v1/order", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), orderWait)
		defer cancel()
		reply(w, h.order(ctx, firerunner.GuestOrder(r.URL.Query().Get("name"))))
	})
	mux.HandleFunc("POST /v1/destroy", func(w http.ResponseWriter, r *http.Request) { reply(w, h.end(r.Context())) })
	s := &server{
		path: path,
		http: &http.Server{
			Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
			ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelWarn),
		},
	}
	s.done.Go(func() { _ = s.http.Serve(peers{listener}) })
	return s, nil
}

// close lets those who read end, for a moment, and removes the socket.
func (s *server) close() {
	s.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), closingWait)
		defer cancel()
		if s.http.Shutdown(ctx) != nil {
			_ = s.http.Close()
		}
		s.done.Wait()
		_ = os.Remove(s.path)
	})
}

func (h *holder) state() shimState {
	s := shimState{}
	select {
	case <-h.began:
		s.Started, s.Console = true, h.machine.console.seen()
	default:
	}
	_, s.Ended = h.reports.Said() // who has read the last word is told nothing else
	return s
}

func (h *holder) serveReports(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseInt(r.URL.Query().Get("after"), 10, 64)
	if err != nil {
		reply(w, firerunner.Errorf(firerunner.Invalid, "after is not a number"))
		return
	}
	out := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	_ = out.Flush()
	encoder := json.NewEncoder(w)
	_ = h.reports.Follow(r.Context(), after, func(report firerunner.GuestReport) error {
		_ = out.SetWriteDeadline(time.Now().Add(time.Minute)) // a reader that stands still is let go
		return errors.Join(encoder.Encode(report), out.Flush())
	})
}

func reply(w http.ResponseWriter, err error) {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	status := http.StatusInternalServerError
	switch firerunner.CodeOf(err) {
	case firerunner.Invalid:
		status = http.StatusBadRequest
	case firerunner.Unavailable:
		status = http.StatusServiceUnavailable
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answerOf(err))
}

// peers accepts only processes of root or of this process's own uid: unix(7), SO_PEERCRED.
type peers struct{ *net.UnixListener }

// Accept implements net.Listener.
func (l peers) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(conn)
		if err == nil && (uid == 0 || uid == os.Getuid()) {
			return conn, nil
		}
		_ = conn.Close()
	}
}

func peerUID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return int(cred.Uid), nil
}

// shimClient speaks with one shim.
type shimClient struct {
	http *http.Client
}

// newShimClient makes a client for a socket whose owner must be uid: a path in the microVM's folder may lead
// anywhere.
func newShimClient(path string, uid int) *shimClient {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		if err != nil {
			return nil, err
		}
		peer, err := peerUID(conn.(*net.UnixConn))
		if err == nil && peer != uid {
			err = firerunner.Errorf(firerunner.Unauthorized, "qemu: %s belongs to uid %d, not %d", path, peer, uid)
		}
		if err != nil {
			_ = conn.Close()
			return nil, err
		}
		return conn, nil
	}
	return &shimClient{http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true, MaxResponseHeaderBytes: 8 << 10}}}
}

// call returns the body of a 2xx answer; the caller closes it.
func (c *shimClient) call(ctx context.Context, method, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://shim/v1/"+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Unavailable, "qemu: speaking with the shim: %w", err)
	}
	if res.StatusCode < 300 {
		return res.Body, nil
	}
	defer res.Body.Close()
	var a answer
	if err := json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&a); err != nil || a.Error == "" {
		return nil, firerunner.Errorf(firerunner.Internal, "qemu: the shim answered with status %d", res.StatusCode)
	}
	return nil, a.err()
}

func (c *shimClient) post(ctx context.Context, path string) error {
	body, err := c.call(ctx, http.MethodPost, path)
	if err != nil {
		return err
	}
	return body.Close()
}

func (c *shimClient) state(ctx context.Context) (shimState, error) {
	var s shimState
	body, err := c.call(ctx, http.MethodGet, "state")
	if err != nil {
		return s, err
	}
	defer body.Close()
	err = json.NewDecoder(io.LimitReader(body, 64<<10)).Decode(&s)
	return s, err
}
