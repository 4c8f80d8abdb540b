package telemetry

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func get(h http.Handler) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	return w
}

func TestAlive_OK(t *testing.T) {
	t.Parallel()
	w := get(Alive())
	require.Equal(t, 200, w.Code)
	require.JSONEq(t, `{"alive":true}`, w.Body.String())
}

func TestReady_Parts(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	var calls atomic.Int64
	var log bytes.Buffer
	now := time.Unix(0, 0)
	ready := Ready(map[string]Check{
		"store": func(context.Context) error { return nil },
		"gitlab": func(context.Context) error {
			calls.Add(1)
			if broken.Load() {
				return firerunner.Errorf(firerunner.Unauthorized, "token glpat-x at https://secret.internal").WithHint("renew it")
			}
			return nil
		},
	})
	ready.Now = func() time.Time { return now }
	ready.Logger = slog.New(slog.NewTextHandler(&log, nil))
	w := get(ready)
	require.Equal(t, 200, w.Code)
	require.JSONEq(t, `{"ready":true,"parts":{"store":{"ok":true},"gitlab":{"ok":true}}}`, w.Body.String())

	broken.Store(true)
	for range 10 {
		require.Equal(t, 200, get(ready).Code, "the answer is kept")
	}
	require.EqualValues(t, 1, calls.Load())
	now = now.Add(time.Second)
	for range 3 {
		w = get(ready)
		require.Equal(t, 503, w.Code)
		require.JSONEq(t, `{"ready":false,"parts":{"store":{"ok":true},"gitlab":{"ok":false,"code":"unauthorized"}}}`, w.Body.String())
		now = now.Add(time.Second)
	}
	require.Equal(t, 1, bytes.Count(log.Bytes(), []byte("not ready")), "a change is told once")
	require.Contains(t, log.String(), "renew it")
	broken.Store(false)
	require.Equal(t, 200, get(ready).Code)
	require.Contains(t, log.String(), "ready again")
}

// A part that hangs is given up after the timeout; the others are not held up, and all who ask share one question.
func TestReady_ErrTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		ready := Ready(map[string]Check{
			"slow": func(ctx context.Context) error { calls.Add(1); <-ctx.Done(); return ctx.Err() },
			"fast": func(context.Context) error { return nil },
		})
		began := time.Now()
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				w := get(ready)
				if w.Code != 503 {
					t.Errorf("answered %d", w.Code)
				}
			})
		}
		all.Wait()
		require.Equal(t, 3*time.Second, time.Since(began))
		require.EqualValues(t, 1, calls.Load())
	})
}
