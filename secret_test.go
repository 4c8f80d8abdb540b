package firerunner_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

const hidden = "glrt-very-hidden"

func TestSecretNeverLeaks(t *testing.T) {
	t.Parallel()
	type inside struct {
		Token firerunner.Secret
		Any   any
		Map   map[string]firerunner.Secret
		List  []firerunner.Secret
		Ptr   *firerunner.Secret
	}
	s := firerunner.Secret(hidden)
	value := inside{Token: s, Any: s, Map: map[string]firerunner.Secret{"a": s}, List: []firerunner.Secret{s}, Ptr: &s}

	var said bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%t", "%T", "%10.3s", "%U", "%c", "%o", "%b", "%e", "%!"} {
		fmt.Fprintf(&said, verb+"\n", s)
		fmt.Fprintf(&said, verb+"\n", value)
		fmt.Fprintf(&said, verb+"\n", &value)
	}
	fmt.Fprintln(&said, s, value, s.String(), fmt.Sprint(s))
	fmt.Fprintln(&said, fmt.Errorf("calling with %v: %w", s, errors.New("no")), firerunner.Errorf(firerunner.Internal, "token %s", s))

	text, err := json.Marshal(value)
	require.NoError(t, err)
	said.Write(text)
	text, err = xml.Marshal(struct {
		XMLName xml.Name `xml:"x"`
		Token   firerunner.Secret
	}{Token: s})
	require.NoError(t, err)
	said.Write(text)
	for _, handler := range []slog.Handler{slog.NewTextHandler(&said, nil), slog.NewJSONHandler(&said, nil)} {
		log := slog.New(handler).With("with", s)
		log.Info("secret", "token", s, "inside", value, "list", []any{s}, "group", slog.GroupValue(slog.Any("token", s)))
	}

	require.Contains(t, said.String(), "[redacted]")
	require.NotContains(t, said.String(), "hidden")
	require.NotContains(t, said.String(), fmt.Sprintf("%x", hidden)[:12], "not in hexadecimal either")
	require.NotContains(t, said.String(), fmt.Sprintf("%X", hidden)[:12])
	require.NotContains(t, said.String(), fmt.Sprintf("% x", hidden)[:12])

	require.Equal(t, hidden, s.Reveal())
	require.Empty(t, firerunner.Secret("").String())
}
