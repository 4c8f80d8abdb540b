package main

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func TestMissingRunners(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gitlab-runner")
	require.NoError(t, os.WriteFile(path, []byte("a program"), 0o644))
	sum := sha256.Sum256([]byte("a program"))
	profile := func(path, sum string) firerunner.Profile {
		return firerunner.Profile{Name: "plain", Provision: firerunner.ProvisionSSH, SSH: firerunner.SSHAccess{RunnerPath: path, RunnerSHA256: sum}}
	}
	require.NoError(t, missingRunners([]firerunner.Profile{
		{Name: "default"},
		profile(path, hex.EncodeToString(sum[:])),
		{Name: "web", Provision: firerunner.ProvisionSSH, SSH: firerunner.SSHAccess{RunnerURL: "https://example.com/x"}},
	}))
	err := missingRunners([]firerunner.Profile{profile(path, strings.Repeat("0", 64)), profile(path+"x", "")})
	require.ErrorContains(t, err, "profile plain: gitlab-runner: "+path+" has the SHA-256 "+hex.EncodeToString(sum[:]))
	require.ErrorContains(t, err, "no such file")
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(missingRunners([]firerunner.Profile{profile(path, "")})))
}

// What gitlab-runner logs becomes what an agent would report.
func TestProvisionerParse(t *testing.T) {
	t.Parallel()
	parse := provisioner(slog.New(slog.DiscardHandler)).Parse
	r, ok := parse([]byte(`{"job":1001,"level":"info","msg":"Checking for jobs... received"}`))
	require.True(t, ok)
	require.Equal(t, firerunner.GuestReport{Kind: firerunner.ReportTookJob, JobID: 1001}, r)
	_, ok = parse([]byte(`{"level":"info","msg":"Configuration loaded"}`))
	require.False(t, ok)
}
