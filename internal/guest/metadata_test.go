package guest

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func testMetadata() Metadata {
	m := Metadata{
		ID: "vm-1", Endpoint: "fleet.example.com:8443", Token: "one-time",
		Network:  firerunner.GuestNetwork{Address: "10.0.0.5/24", Gateway: "10.0.0.1", DNS: "10.0.0.2"},
		Deadline: time.Unix(1795465437, 0),
	}
	m.Fingerprint[0] = 7
	return m
}

func TestMetadataOK(t *testing.T) {
	for _, m := range []Metadata{testMetadata(), {ID: "a", Endpoint: "[2001:db8::1]:1", Token: "t"}} {
		text, err := EncodeMetadata(m)
		require.NoError(t, err)
		got, err := DecodeMetadata(text)
		require.NoError(t, err)
		require.Equal(t, m, got)
		require.Equal(t, m.Token.Reveal(), got.Token.Reveal())
	}
	text, err := EncodeMetadata(testMetadata())
	require.NoError(t, err)
	got, err := DecodeMetadata([]byte(strings.Replace(string(text), `"10.0.0.1"`, `"10.0.0.1/24","more":[1]`, 1)))
	require.NoError(t, err)
	require.Equal(t, "10.0.0.1", got.Network.Gateway, "as Flintlock writes it")
}

// TestMetadataHeartbeat: a guest is told how often to give a sign of life, and not something at which it would be hung up on.
func TestMetadataHeartbeat(t *testing.T) {
	m := Metadata{ID: "vm-1", Endpoint: "192.0.2.1:8443", Token: "t", Heartbeat: 2 * time.Second}
	text, err := EncodeMetadata(m)
	require.NoError(t, err)
	back, err := DecodeMetadata(text)
	require.NoError(t, err)
	require.Equal(t, m, back)
	for _, wrong := range []time.Duration{-time.Second, time.Minute} {
		m.Heartbeat = wrong
		_, err = EncodeMetadata(m)
		require.Error(t, err, "%s", wrong)
	}
}

func TestMetadataErrInvalid(t *testing.T) {
	text, err := EncodeMetadata(testMetadata())
	require.NoError(t, err)
	for old, wrong := range map[string]string{
		`"v":1`: `"v":2`, `"vm-1"`: `"../x"`, `:8443`: `:0`, `"fleet.example.com`: `"`, `sha256:`: `md5:`, `"one-time"`: `""`,
		"10.0.0.5/24": "10.0.0.5", `"10.0.0.1"`: `"169.254.169.254"`, `"10.0.0.2"`: `"a\nb"`, `{`: `[`, `"id"`: `"x"`,
		`:1795465437`: `:-1`,
	} {
		changed := strings.Replace(string(text), old, wrong, 1)
		require.NotEqual(t, string(text), changed, old)
		_, err := DecodeMetadata([]byte(changed))
		require.Error(t, err, changed)
		require.NotContains(t, err.Error(), "one-time")
	}
	_, err = DecodeMetadata(make([]byte, MaxMetadata+1))
	require.Error(t, err)
	_, err = EncodeMetadata(Metadata{})
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
}

func FuzzDecodeMetadata(f *testing.F) {
	text, _ := EncodeMetadata(testMetadata())
	f.Add(text)
	others := testMetadata()
	others.Others = []Door{{Endpoint: "[2001:db8::2]:1", Fingerprint: others.Fingerprint}, {Endpoint: "b.example:65535"}}
	text, _ = EncodeMetadata(others)
	f.Add(text)
	f.Add([]byte(strings.Replace(string(text), `"others":[`, `"others":[null,`, 1)))
	f.Add([]byte(`{"v":1,"id":"a","endpoint":"[::1%x]:1","fingerprint":"sha256:","token":"t","address":"::ffff:1.2.3.4/128"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := DecodeMetadata(text)
		if err != nil {
			return
		}
		again, err := EncodeMetadata(m)
		require.NoError(t, err)
		same, err := DecodeMetadata(again)
		require.NoError(t, err)
		require.Equal(t, m, same)
	})
}
