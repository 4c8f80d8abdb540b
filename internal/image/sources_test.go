package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func TestAptSourcesOK(t *testing.T) {
	etc := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(etc, "sources.list.d"), 0o755))
	writeFile(t, filepath.Join(etc, "sources.list"), `# comment
deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian bookworm main contrib
deb-src http://mirror.test/debian bookworm main
deb http://mirror.test/debian trixie main
deb [trusted=yes] http://mirror.test/sec bookworm-security main # trailing
deb http://short.test
`, 0o644)
	writeFile(t, filepath.Join(etc, "sources.list.d", "a.sources"), `Types: deb deb-src
URIs: http://a.test/debian http://b.test/debian
Suites: bookworm-updates sid
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

# off
Types: deb
URIs: http://off.test
Suites: bookworm
Components: main
Enabled: no

Types: deb
URIs: http://tool.test
Suites: bookworm
Components: stable
`, 0o644)
	writeFile(t, filepath.Join(etc, "sources.list.d", "old.list.save"), "deb http://save.test bookworm main", 0o644)
	got, err := aptSources(etc, "bookworm")
	require.NoError(t, err)
	require.Equal(t, `Types: deb
URIs: http://mirror.test/debian
Suites: bookworm
Components: main contrib
Signed-By: /k.gpg

Types: deb
URIs: http://mirror.test/sec
Suites: bookworm-security
Components: main
Trusted: yes

Types: deb
URIs: http://a.test/debian http://b.test/debian
Suites: bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

`, got)

	other, err := aptSources(etc, "bullseye")
	require.NoError(t, err)
	require.Equal(t, strings.NewReplacer("bookworm", "bullseye").Replace(got), other, "another release is on the same mirrors")
	_, err = aptSources(etc, "jammy")
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
	require.Contains(t, firerunner.HintOf(err), "--mirror URL")
}

func TestGivenSources(t *testing.T) {
	got, err := givenSources([]string{"deb http://x.test/debian bookworm main"}, "bookworm", "")
	require.NoError(t, err)
	require.Equal(t, "Types: deb\nURIs: http://x.test/debian\nSuites: bookworm\nComponents: main\n\n", got)
	got, err = givenSources([]string{"http://x.test/debian", "deb [trusted=yes] http://x.test/debian bookworm-updates main"}, "bookworm", "/k.gpg")
	require.NoError(t, err)
	require.Equal(t, "Types: deb\nURIs: http://x.test/debian\nSuites: bookworm\nComponents: main\nSigned-By: /k.gpg\n\n"+
		"Types: deb\nURIs: http://x.test/debian\nSuites: bookworm-updates\nComponents: main\nTrusted: yes\n\n", got)
	got, err = givenSources([]string{"http://x.test/ubuntu"}, "jammy", "")
	require.NoError(t, err)
	require.Contains(t, got, "Suites: jammy\nComponents: main universe\n")
	_, err = givenSources([]string{"x.test/debian"}, "bookworm", "")
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
	_, err = givenSources([]string{"deb http://me:pass@x.test/debian bookworm main"}, "bookworm", "")
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
	require.NotContains(t, err.Error(), "pass@")
}

func FuzzParseSources(f *testing.F) {
	f.Add("deb [signed-by=/k] http://x bookworm main\n", "Types: deb\nURIs: x\n y\nSuites: a\n")
	f.Fuzz(func(t *testing.T, list, deb822 string) {
		for _, s := range append(parseOneLine(list), parseDeb822(deb822)...) {
			out, err := selectSources([]source{s}, "bookworm")
			if err == nil && out != "" {
				require.True(t, strings.HasPrefix(out, "Types: deb\nURIs: "))
			}
		}
	})
}

func TestRecipeOK(t *testing.T) {
	r, err := Recipe{AgentPath: "a", RunnerPath: "r", Packages: []string{"make", "git"}, Sudo: true}.complete()
	require.NoError(t, err)
	require.Equal(t, Recipe{
		Name: "default", Suite: "bookworm", Kernel: "linux-image-cloud-amd64", DiskMiB: 256, AgentPath: "a", RunnerPath: "r", Sudo: true,
		Packages: []string{"bash", "ca-certificates", "curl", "git", "make", "sudo"},
	}, r)
	other := r
	other.Packages = other.Packages[:5]
	require.NotEqual(t, r.baseKey("s"), other.baseKey("s"))
	require.NotEqual(t, r.baseKey("s"), r.baseKey("t"))
	other = r
	other.DiskMiB, other.AgentPath, other.Name = 100, "b", "x"
	require.Equal(t, r.baseKey("s"), other.baseKey("s"), "what is not in the base does not change it")
}

func TestRecipeErrInvalid(t *testing.T) {
	for want, r := range map[string]Recipe{
		"name":         {Name: "../x"},
		"suite":        {Suite: "a b"},
		"disk":         {DiskMiB: 1},
		"package":      {Packages: []string{"git; rm -rf /"}},
		"guest agent":  {},
		"no gitlab":    {AgentPath: "a"},
		"SHA-256":      {AgentPath: "a", RunnerURL: "https://x.test/r"},
		"Debian packa": {AgentPath: "a", RunnerPath: "r", Kernel: "$(x)"},
	} {
		_, err := r.complete()
		require.ErrorContains(t, err, want)
		require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
	}
}
