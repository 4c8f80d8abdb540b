package telemetry

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func TestNewLogger_Redacts(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		log, err := NewLogger(&out, format, "info")
		require.NoError(t, err)
		log.With("gitlab_token", "hunter2").Info("saying glrt-0123456789abcdef",
			"Authorization", "hunter2", "db_password", 42, "password", []byte("hunter2"), "secret", firerunner.Secret("hunter2"),
			slog.Group("g", "api_key", "hunter2", "fine", "visible-one"),
			slog.Group("tokens", "inner", "visible-two"),
			"error", errors.New("GET https://user:hunter2@gitlab/: token glpat-0123456789abcdefghij refused"),
			"header", "Bearer hunter2hunter2", "list", []string{"whsec_aHVudGVyMmh1bnRlcjI="}, "bytes", []byte("glcbt-64_hunter2hunter2"),
			"token_file", "/etc/firerunner/token", "url", "https://gitlab.example.com/global-configuration",
			"took", time.Second, "n", 7, "source", netip.MustParseAddr("192.0.2.1"),
		)
		log.Debug("not said")
		said := out.String()
		require.NotContains(t, said, "hunter2", format)
		require.NotRegexp(t, `glrt-|glpat-|whsec_|glcbt-|not said`, said)
		for _, shown := range []string{
			"visible-one", "visible-two", "/etc/firerunner/token", "https://gitlab.example.com/global-configuration", "[redacted]",
			"refused", "192.0.2.1",
		} {
			require.Contains(t, said, shown, format)
		}
		require.Equal(t, 1, bytes.Count(out.Bytes(), []byte("\n")), "one line")
	}
}

func TestNewLogger_ErrWords(t *testing.T) {
	t.Parallel()
	for _, words := range [][2]string{{"xml", "info"}, {"json", "loud"}, {"", ""}} {
		_, err := NewLogger(&bytes.Buffer{}, words[0], words[1])
		require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
		require.NotEmpty(t, firerunner.HintOf(err))
	}
}
