package flintlocktest_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/firerunner/firerunner/internal/flintlocktest"
)

func TestControl(t *testing.T) {
	srv := start(t, flintlocktest.Config{})
	web := httptest.NewServer(srv.Control())
	defer web.Close()
	ask := func(method, path, body string) (int, string) {
		req, err := http.NewRequest(method, web.URL+path, strings.NewReader(body))
		require.NoError(t, err)
		answer, err := web.Client().Do(req)
		require.NoError(t, err)
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		return answer.StatusCode, string(text)
	}
	ok := func(method, path, body string) string {
		t.Helper()
		code, text := ask(method, path, body)
		require.Equal(t, 200, code, text)
		return text
	}
	require.Equal(t, "[]\n", ok("GET", "/vms", ""))
	uid := create(t, dial(t, srv), goodSpec("vm"))
	_, err := srv.WaitVM(soon(t), uid, created)
	require.NoError(t, err)
	text := ok("GET", "/vms", "")
	require.Contains(t, text, `"state": "CREATED"`)
	require.NotContains(t, text, "metadata", "there are tokens in it")
	require.Empty(t, ok("GET", "/vms/"+uid+"/console", ""))
	require.Contains(t, ok("GET", "/counters", ""), `"Boots": 1`)

	require.Contains(t, ok("POST", "/faults", `{"action": "error", "method": "GetMicroVM", "code": 14, "delay": "1.5s"}`), `"id"`)
	fault := srv.Faults()[0]
	require.Equal(t, codes.Unavailable, fault.Code)
	require.Equal(t, 1500*time.Millisecond, fault.Delay)
	require.Contains(t, ok("GET", "/faults", ""), "GetMicroVM")
	ok("DELETE", "/faults", "")
	require.Empty(t, srv.Faults())
	for _, bad := range []string{"", "{}", `{"action": "error"} {}`, `{"action": "error", "delay": "x"}`, `{"verb": "error"}`} {
		code, _ := ask("POST", "/faults", bad)
		require.Equal(t, 400, code, bad)
	}

	ok("POST", "/vms/"+uid+"/kill", "")
	ok("POST", "/resync", "")
	_, err = srv.WaitVM(soon(t), uid, func(vm flintlocktest.VM) bool { return vm.Boots == 2 })
	require.NoError(t, err)
	ok("POST", "/restart", "")
	ok("POST", "/stop", "")
	require.False(t, srv.Alive())
	require.Equal(t, 1, srv.Running())
	ok("POST", "/power-off", "")
	require.Zero(t, srv.Running())
	ok("POST", "/start", "")
	require.True(t, srv.Alive())
	ok("DELETE", "/vms/"+uid, "")
	for _, path := range []string{"/vms/" + uid, "/vms/x"} {
		code, _ := ask("DELETE", path, "")
		require.Equal(t, 404, code)
	}
	code, _ := ask("GET", "/vms/x/console", "")
	require.Equal(t, 404, code)
	require.NoError(t, srv.Close())
	code, _ = ask("POST", "/start", "")
	require.Equal(t, 409, code)
}
