package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// asked is what mmdebstrap would be asked for, and its sources.
func asked(t *testing.T, machine string, recipe Recipe, keyrings ...string) (args, sources string, err error) {
	t.Helper()
	etc := t.TempDir()
	writeFile(t, filepath.Join(etc, "os-release"), "NAME=x\nID="+machine+"\n", 0o644)
	for _, dir := range []string{"apt", "keyrings"} {
		require.NoError(t, os.Mkdir(filepath.Join(etc, dir), 0o755))
	}
	for _, name := range keyrings {
		writeFile(t, filepath.Join(etc, "keyrings", name), "keys", 0o644)
	}
	recipe.NoAgent = true
	recipe, err = recipe.complete()
	require.NoError(t, err)
	r := &run{Builder: Builder{Apt: filepath.Join(etc, "apt"), Keyrings: filepath.Join(etc, "keyrings")}, recipe: recipe}
	if sources, err = r.sources(); err != nil {
		return "", "", err
	}
	return strings.Join(r.mmdebstrap("/list", "/kernel", "/target"), "\n"), strings.ReplaceAll(sources, etc, ""), nil
}

func TestSuitesUbuntuOK(t *testing.T) {
	for _, suite := range []string{"jammy", "noble"} {
		mirrors := []string{"http://mirror.test/ubuntu", "deb http://mirror.test/ubuntu " + suite + "-updates main universe"}
		args, sources, err := asked(t, "debian", Recipe{Suite: suite, Mirrors: mirrors, SSHD: true}, "ubuntu-archive-keyring.gpg")
		require.NoError(t, err)
		require.Equal(t, "Types: deb\nURIs: http://mirror.test/ubuntu\nSuites: "+suite+"\nComponents: main universe\nSigned-By: /keyrings/ubuntu-archive-keyring.gpg\n\n"+
			"Types: deb\nURIs: http://mirror.test/ubuntu\nSuites: "+suite+"-updates\nComponents: main universe\nSigned-By: /keyrings/ubuntu-archive-keyring.gpg\n\n", sources)
		require.Contains(t, args, "apt-cache depends 'linux-image-virtual'")
		require.Contains(t, args, `apt-get -q download "linux-modules-${p#linux-image-}"`)
		require.Contains(t, args, "openssh-server")
		require.Contains(t, args, "\n"+suite+"\n/target\n/list")
		require.NotContains(t, args, "--keyring")

		_, _, err = asked(t, "debian", Recipe{Suite: suite, Mirrors: mirrors})
		require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
		require.Contains(t, firerunner.HintOf(err), "apt-get install ubuntu-keyring, or --keyring PATH")
		_, sources, err = asked(t, "ubuntu", Recipe{Suite: suite, Mirrors: mirrors})
		require.NoError(t, err)
		require.NotContains(t, sources, "Signed-By", "Ubuntu's apt has Ubuntu's keys")

		keys := writeFile(t, filepath.Join(t.TempDir(), "keys.gpg"), "keys", 0o644)
		args, sources, err = asked(t, "debian", Recipe{Suite: suite, Mirrors: mirrors, Keyrings: []string{keys}})
		require.NoError(t, err)
		require.NotContains(t, sources, "Signed-By", "its path means nothing in the guest")
		require.Contains(t, args, "--keyring="+keys)
		_, _, err = asked(t, "debian", Recipe{Suite: suite})
		require.Contains(t, firerunner.HintOf(err), "--mirror URL")
		_, _, err = asked(t, "debian", Recipe{Suite: suite, Mirrors: mirrors, Keyrings: []string{"/none"}})
		require.ErrorContains(t, err, "read the keyring")
		_, _, err = asked(t, "debian", Recipe{Suite: suite, Mirrors: []string{"deb [signed-by=/k] http://mirror.test/ubuntu " + suite + " main"}})
		require.NoError(t, err)
	}
}

func TestSuitesDebianOK(t *testing.T) {
	args, sources, err := asked(t, "ubuntu", Recipe{Suite: "trixie", Mirrors: []string{"http://mirror.test/debian"}}, "debian-archive-keyring.gpg")
	require.NoError(t, err)
	require.Contains(t, sources, "Signed-By: /keyrings/debian-archive-keyring.gpg")
	require.Contains(t, args, "apt-cache depends 'linux-image-cloud-amd64'")
	require.NotContains(t, args, "linux-modules-")
	require.Equal(t, "Debian", distributionOf("something").name)
	require.Empty(t, osID("/none"))
	require.Empty(t, renamed([]source{{suites: []string{"bookworm"}}}, "something"))
}
