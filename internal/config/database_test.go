package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func secretFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(path, []byte(text+"\n"), 0o600))
	return path
}

// TestDatabase: wherever the password stands, it gets to the database, and nowhere else.
func TestDatabase(t *testing.T) {
	t.Parallel()
	const want = "postgres://u:hunter%402@h:5432/d?sslmode=require"
	const bare = "postgres://u@h:5432/d?sslmode=require"
	for name, environ := range map[string][]string{
		"in the URL":           {"FIRERUNNER_DATABASE=" + want},
		"as a setting":         {"FIRERUNNER_DATABASE=" + bare + "&password=hunter%402"},
		"in a file":            {"FIRERUNNER_DATABASE=" + bare, "FIRERUNNER_DATABASE_PASSWORD_FILE=" + secretFile(t, "hunter@2")},
		"in the environment":   {"FIRERUNNER_DATABASE=" + bare, "FIRERUNNER_DATABASE_PASSWORD=hunter@2"},
		"the whole in a file":  {"FIRERUNNER_DATABASE_FILE=" + secretFile(t, want)},
		"the other URL scheme": {"FIRERUNNER_DATABASE=" + strings.Replace(want, "postgres", "postgresql", 1)},
	} {
		c, err := Load(Sources{Environ: environ, WithoutGitLab: true, Machine: Machine{Root: true, HostName: "m", VCPUs: 2, MemoryMiB: 8192}})
		require.NoError(t, err, name)
		require.Equal(t, want, strings.Replace(c.PostgresURL().Reveal(), "postgresql", "postgres", 1), name)
		require.Empty(t, c.SQLitePath())
		require.NotContains(t, fmt.Sprintf("%v %+v", c.Settings(), *c), "hunter", name)
	}
	c, err := Load(Sources{Environ: []string{"FIRERUNNER_STATE_DIR=/x"}, WithoutGitLab: true, Machine: Machine{Root: true, HostName: "m", VCPUs: 2, MemoryMiB: 8192}})
	require.NoError(t, err)
	require.Equal(t, "/x/firerunner.db", c.SQLitePath())
	require.Empty(t, c.PostgresURL())
}

func TestDatabaseErr(t *testing.T) {
	t.Parallel()
	open := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(open, []byte("database: postgres://u:hunter2@h/d\n"), 0o644))
	for name, test := range map[string]struct {
		sources Sources
		want    string
	}{
		"on the command line": {Sources{Flags: []string{"database=postgres://u:hunter2@h/d"}}, "command line"},
		"readable by all":     {Sources{File: open}, "every user of the machine can read the password"},
		"missing file":        {Sources{Environ: []string{"FIRERUNNER_DATABASE=postgres://u@h/d", "FIRERUNNER_DATABASE_PASSWORD_FILE=/nowhere/hunter2"}}, "/nowhere/hunter2: no such file"},
		"missing URL's file":  {Sources{Environ: []string{"FIRERUNNER_DATABASE_FILE=/nowhere/it"}}, "/nowhere/it: no such file"},
		"twice":               {Sources{Environ: []string{"FIRERUNNER_DATABASE=postgres://u:hunter2@h/d", "FIRERUNNER_DATABASE_PASSWORD=hunter2"}}, "database_password is given too"},
		"both":                {Sources{Environ: []string{"FIRERUNNER_DATABASE=postgres://u@h/d", "FIRERUNNER_DATABASE_FILE=/x"}}, "both given"},
		"not a URL":           {Sources{Environ: []string{"FIRERUNNER_DATABASE=postgres://u:hunter2@h:x%zz/d"}}, "is not a URL"},
		"unknown scheme":      {Sources{Environ: []string{"FIRERUNNER_DATABASE=mysql://u:hunter2@h/d"}}, "is not a database"},
	} {
		test.sources.WithoutGitLab = true
		_, err := Load(test.sources)
		require.Error(t, err, name)
		require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
		require.ErrorContains(t, err, test.want, name)
		require.NotContains(t, strings.ReplaceAll(err.Error(), "/nowhere/hunter2", ""), "hunter2", name)
	}
}
