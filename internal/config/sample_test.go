package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
)

const sample = "../../config.example.yaml"

// readSample reads text as the sample file is read, without the check: a sample has no token.
func readSample(t *testing.T, text string) Config {
	t.Helper()
	l := loader{config: Default()}
	l.config.origins = map[string]origin{}
	require.True(t, l.document(filepath.Join(t.TempDir(), "config.yaml"), []byte(text)))
	require.Empty(t, l.problems)
	return l.config
}

func TestSampleHasTheDefaults(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(sample)
	require.NoError(t, err)
	got := readSample(t, string(text))
	// "[]" and "{}" are what the file can say of nothing.
	diff := cmp.Diff(Default(), got, cmpopts.IgnoreUnexported(Config{}), cmpopts.EquateEmpty(), cmpopts.EquateComparable())
	require.Empty(t, diff, "config.example.yaml and Default differ (-default +sample)")
	for _, key := range Keys() {
		require.Contains(t, got.origins, key, "config.example.yaml leaves a key out")
	}
}

func TestSampleProfileHasEveryKey(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(sample)
	require.NoError(t, err)
	// The profile stands in a comment; it must be right all the same.
	_, rest, _ := strings.Cut(string(text), "profiles: {}\n")
	block := regexp.MustCompile(`(?m)\A(#  .*\n)+`).FindString(rest)
	got := readSample(t, "profiles:\n"+regexp.MustCompile(`(?m)^#`).ReplaceAllString(block, ""))
	for _, f := range fieldsOf(reflect.TypeFor[Profile]()) {
		if isLeaf(f.kind) {
			require.Contains(t, got.origins, "profiles.docker."+f.name)
		}
	}
	for _, f := range fieldsOf(reflect.TypeFor[SSH]()) {
		require.Contains(t, got.origins, "profiles.docker.ssh."+f.name)
	}
}

func TestSampleHostHasEveryKey(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(sample)
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(text), "hosts: []\n")
	block := regexp.MustCompile(`(?m)\A(#  .*\n)+`).FindString(rest)
	got := readSample(t, "hosts:\n"+regexp.MustCompile(`(?m)^#`).ReplaceAllString(block, ""))
	require.Len(t, got.Hosts, 1)
	for _, f := range fieldsOf(reflect.TypeFor[Host]()) {
		if !isLeaf(f.kind) {
			continue
		}
		require.Contains(t, got.origins, "hosts[0]."+f.name)
	}
	for _, f := range fieldsOf(reflect.TypeFor[Addresses]()) {
		require.Contains(t, got.origins, "hosts[0].addresses."+f.name)
	}
	require.Equal(t, "/etc/firerunner/hosts-ca.pem", got.Hosts[0].TLS.CAFile)
	pool, err := got.Hosts[0].Addresses.pool()
	require.NoError(t, err)
	require.Equal(t, "10.42.0.10", pool.First.String())
}

func TestVariablesAreUnique(t *testing.T) {
	t.Parallel()
	names := map[string]string{}
	for _, key := range Keys() {
		name := Variable(key)
		require.NotContains(t, names, name, "%s and %s", key, names[name])
		names[name] = key
	}
	require.NotContains(t, names, "FIRERUNNER_CONFIG")
	require.NotContains(t, names, "FIRERUNNER_CACHE")
}
