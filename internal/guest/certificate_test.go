package guest

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func TestLoadCertificateOK(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	var all sync.WaitGroup
	found := make([]string, 8)
	for i := range found {
		all.Go(func() {
			certificate, err := LoadCertificate(dir)
			require.NoError(t, err)
			found[i] = Fingerprint(certificate)
		})
	}
	all.Wait()
	for _, f := range found {
		require.Equal(t, found[0], f, "one for all")
	}
	sum, err := ParseFingerprint(found[0])
	require.NoError(t, err)
	require.NotZero(t, sum)
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 1, "nothing is left beside it")
	info, err := files[0].Info()
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestLoadCertificateErrInvalid(t *testing.T) {
	dir := t.TempDir()
	_, err := LoadCertificate(dir)
	require.NoError(t, err)
	path := filepath.Join(dir, certificateFile)
	require.NoError(t, os.Chmod(path, 0o640))
	_, err = LoadCertificate(dir)
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
	require.NotEmpty(t, firerunner.HintOf(err))
	require.NoError(t, os.WriteFile(path, []byte("damaged"), 0o600))
	require.NoError(t, os.Chmod(path, 0o600))
	_, err = LoadCertificate(dir)
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
	_, err = LoadCertificate(path + "/below")
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))

	for _, text := range []string{"", "sha256:", "sha256:" + strings.Repeat("x", 64), "sha1:" + strings.Repeat("a", 64), strings.Repeat("a", 64)} {
		_, err := ParseFingerprint(text)
		require.Error(t, err, text)
	}
}
