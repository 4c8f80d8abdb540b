package e2e

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// before is the commit of the version before this one, as it was landed: the program that runs on a site in the moment in
// which this one is rolled out there. When this version has landed, and the next one is begun, it becomes this version's last
// commit (git log -1 --format=%H main), together with internal/store/postgres/testdata/before.sql, which has that version's
// statements. It stays behind for no longer: programs work together that are one change of the tables apart.
const before = "108bf24b639f8440fc3ff9d12a9ceb9319fc65ae"

// before returns the daemon of the version before, built as it was released. It is built once and kept by its commit.
func (p *product) before(t *testing.T) string {
	t.Helper()
	p.needsHistory(t)
	kept := filepath.Join(cacheDir(), "daemons", before, "firerunner")
	if _, err := os.Stat(kept); err == nil {
		return kept
	} else if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(t, err)
	}
	source := t.TempDir()
	archive := filepath.Join(source, "source.tar")
	p.git(t, "archive", "--format=tar", "--output="+archive, before)
	require.NoError(t, command(source, nil, "tar", "-xf", archive))
	require.NoError(t, os.MkdirAll(filepath.Dir(kept), 0o755))
	// Beside where it is kept, so that it is there whole or not at all, whoever else builds it now or is killed.
	made, err := os.MkdirTemp(filepath.Dir(kept), ".made-")
	require.NoError(t, err)
	defer os.RemoveAll(made)
	program := filepath.Join(made, "firerunner")
	require.NoError(t, command(source, append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off"), "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -X main.version="+before, "-o", program, "./cmd/firerunner"))
	require.NoError(t, os.Rename(program, kept))
	return kept
}

// needsHistory skips a test where the source has come without the version before: as an archive, or as a shallow clone. In a
// whole clone that commit is there, or this test is wrong about it.
func (p *product) needsHistory(t *testing.T) {
	t.Helper()
	inside, err := p.gitSays("rev-parse", "--show-prefix")
	if err != nil || inside != "" { // it may lie in somebody else's repository
		t.Skipf("there is no program of the version before: %s is no git checkout", p.root)
	}
	if _, err := p.gitSays("cat-file", "-e", before+"^{commit}"); err == nil {
		return
	}
	if p.git(t, "rev-parse", "--is-shallow-repository") == "true" {
		t.Skipf("there is no program of the version before: this clone is shallow, and has no commit %.12s (git fetch --unshallow)", before)
	}
	t.Fatalf("this clone has its history, and no commit %s: the constant before is wrong", before)
}

func (p *product) git(t *testing.T, args ...string) string {
	t.Helper()
	said, err := p.gitSays(args...)
	require.NoError(t, err, "git %v", args)
	return said
}

// gitSays asks git about the source, whoever owns it: make test runs as root in a clone of somebody else's too.
func (p *product) gitSays(args ...string) (string, error) {
	cmd := exec.Command("git", append([]string{"-c", "safe.directory=*"}, args...)...)
	cmd.Dir = p.root
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}
