package config

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Pools of two hosts: an error on one network, nothing on two, a warning where nobody says.
func TestOverlap(t *testing.T) {
	t.Parallel()
	const head = "driver: flintlock\nguest: {public_address: 10.0.0.2}\nflintlock: {token: shared, tls: {ca_file: ca.pem}}\nhosts:\n"
	host := func(name, addresses string) string {
		return "  - {name: " + name + ", endpoint: '10.0.0.5:9090', vcpu: 8, memory_mb: 16384, addresses: {" + addresses + "}}\n"
	}
	for name, c := range map[string]struct{ one, other, problem, warning string }{
		"apart":          {"range: 10.42.0.0/24", "range: 10.43.0.0/24", "", ""},
		"touching":       {"first: 10.42.0.10, last: 10.42.0.19, prefix: 24", "first: 10.42.0.20, last: 10.42.0.29, prefix: 24", "", ""},
		"other family":   {"range: 10.42.0.0/24", "range: 'fd00::/112'", "", ""},
		"none":           {"", "range: 10.42.0.0/24", "", ""},
		"nobody says":    {"range: 10.42.0.0/24", "first: 10.42.0.20, last: 10.42.0.29, prefix: 24", "", "hosts a and b both give away 10.42.0.20 to 10.42.0.29: if they are on one network"},
		"one says":       {"range: 10.42.0.0/24, network: x", "range: 10.42.0.0/24", "", "hosts a and b both give away"},
		"two networks":   {"range: 10.42.0.0/24, network: x", "range: 10.42.0.0/24, network: y", "", ""},
		"one network":    {"range: 10.42.0.0/24, network: x", "range: 10.42.0.0/25, network: x", "hosts a and b both give away 10.42.0.1 to 10.42.0.126 on network x: two microVMs would have one address", ""},
		"one, but apart": {"range: 10.42.0.0/24, network: x", "range: 10.42.1.0/24, network: x", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			loaded, err := Load(Sources{File: write(t, enough+head+host("a", c.one)+host("b", c.other)), Machine: machine()})
			if c.problem == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.problem)
			}
			if c.warning == "" {
				require.Empty(t, loaded.Warnings())
				return
			}
			require.Len(t, loaded.Warnings(), 1)
			require.Contains(t, loaded.Warnings()[0].String(), c.warning)
		})
	}
}
