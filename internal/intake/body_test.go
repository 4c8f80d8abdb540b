package intake

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// padded is a Job Hook with a commit message of some size.
func padded(jobID int64, size int) string {
	return strings.Replace(hookBody(jobID, "pending", "null"), `"message":"test\n"`, `"message":"`+strings.Repeat("a", size)+`"`, 1)
}

func TestBody_Limits(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"token", "signed"} {
		for name, test := range map[string]struct {
			size   int
			chunks bool // without Content-Length
			spoil  bool
			taken  int // places for large bodies that others have
			want   Result
		}{
			"small":             {size: 10, want: Queued},
			"large":             {size: 200 << 10, want: Queued},
			"large, chunked":    {size: 200 << 10, chunks: true, want: Queued},
			"large, no place":   {size: 200 << 10, taken: 2, want: TooLarge},
			"small, no place":   {size: 60 << 10, taken: 2, want: Queued},
			"too large":         {size: 1 << 20, want: TooLarge},
			"too large, chunks": {size: 1 << 20, chunks: true, want: TooLarge},
			"stranger's":        {size: 1 << 20, spoil: true, want: Unauthorized},
			"stranger's, small": {size: 10, spoil: true, want: Unauthorized},
		} {
			t.Run(mode+" "+name, func(t *testing.T) {
				t.Parallel()
				h := newHouse(t, func(cfg *Config) {
					cfg.LargeBodies = 2
					if mode == "signed" {
						cfg.SigningTokens = []firerunner.Secret{signingToken}
					}
				})
				for range test.taken {
					h.large <- struct{}{}
				}
				body := padded(1, test.size)
				r := post(body)
				if mode == "signed" {
					r = signed(signingToken, "id", h.now, body)
				}
				if test.chunks {
					r.ContentLength = -1
				}
				if test.spoil {
					r.Header.Set("X-Gitlab-Token", "wrong")
					r.Body = io.NopCloser(strings.NewReader(body + " "))
				}
				w, got := h.deliver(r)
				require.Equal(t, test.want, got)
				require.Equal(t, test.want.status(), w.Code)
				require.Equal(t, test.want == Queued, len(h.store.steps) == 1)
				require.Len(t, h.large, test.taken, "places are given back")
			})
		}
	}
}

func TestBody_ErrHuge(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(cfg *Config) { cfg.SigningTokens = []firerunner.Secret{signingToken} })
	r := signed(signingToken, "id", h.now, "")
	r.ContentLength = mostBodyBytes + 1
	r.Body = io.NopCloser(iotestPanic{})
	_, got := h.deliver(r)
	require.Equal(t, Unauthorized, got)
}

// iotestPanic is a body that must not be read.
type iotestPanic struct{}

func (iotestPanic) Read([]byte) (int, error) { panic("read") }

// Strangers who stall cannot keep others out, and are cut off.
func TestBody_ErrStalled(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(cfg *Config) { cfg.ReadTimeout = 300 * time.Millisecond; cfg.LargeBodies = 1 })
	server := httptest.NewServer(h)
	defer server.Close()
	var stalled []net.Conn
	for range 5 {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		require.NoError(t, err)
		defer conn.Close()
		fmt.Fprintf(conn, "POST /webhook HTTP/1.1\r\nHost: x\r\nX-Gitlab-Event: Job Hook\r\nX-Gitlab-Token: %s\r\nContent-Length: 90000\r\n\r\n{", secretToken)
		stalled = append(stalled, conn)
	}
	r := post(hookBody(1, "pending", "null"))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, r.Body)
	require.NoError(t, err)
	req.Header = r.Header
	resp, err := server.Client().Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	for _, conn := range stalled {
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusRequestTimeout, resp.StatusCode)
	}
	require.Empty(t, h.large)
}
