package config

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// machine is a small machine that every test agrees on.
func machine() Machine {
	return Machine{Root: true, StateHome: "/home/u/.local/state", HostName: "metal-1", VCPUs: 4, MemoryMiB: 16384}
}

// write puts a configuration into a folder of its own, readable by its owner only.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// enough is what a file must have at least.
const enough = "gitlab:\n  url: https://gitlab.example.com\n  token: glpat-secret-of-the-test\n  webhook_secret: hush-of-the-test\n"

// problemsOf returns the problems of an error of Load or Validate.
func problemsOf(t *testing.T, err error) Problems {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
	var problems Problems
	require.True(t, errors.As(err, &problems), "%T", err)
	return problems
}

func TestLoadOK(t *testing.T) {
	t.Parallel()
	c, err := Load(Sources{File: write(t, enough), Machine: machine()})
	require.NoError(t, err)
	require.Equal(t, "https://gitlab.example.com", c.GitLab.URL)
	require.Equal(t, "https://gitlab.example.com", c.GitLab.GuestURL)
	require.Equal(t, "glpat-secret-of-the-test", c.GitLab.Token.Reveal())
	require.Equal(t, "/var/lib/firerunner", c.StateDir)
	require.Equal(t, "sqlite:///var/lib/firerunner/firerunner.db", c.Database)
	require.Equal(t, "/var/lib/firerunner/images", c.Image.Dir)
	require.Equal(t, firerunner.Host{Name: "metal-1", Driver: "qemu", VCPUs: 8, MemoryMiB: 14336, Slots: 4}, c.Host())
	require.NoError(t, c.Validate())
}
