package image

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// foreignTree is a container image's system in which scripts can run: busyTree with what jobs need.
func foreignTree(t *testing.T) *tree {
	t.Helper()
	return furnished(t, busyTree(t))
}

// stillTree is one in which nothing can run.
func stillTree(t *testing.T) *tree {
	t.Helper()
	root := newTree()
	require.NoError(t, root.file("bin/sh", 0o755, 0, []byte("sh")))
	return furnished(t, root)
}

func furnished(t *testing.T, root *tree) *tree {
	t.Helper()
	for name, text := range map[string]string{
		"bin/bash": "bash", "usr/bin/git": "git", "etc/ssl/certs/ca-certificates.crt": "ca", "etc/team": "ours",
		"etc/passwd":          "root:x:0:0:root:/root:/bin/sh\nubuntu:x:1000:1000::/home/ubuntu:/bin/sh\n",
		"var/lib/dpkg/status": "Package: base-files\nStatus: install ok installed\nVersion: 12\n",
	} {
		require.NoError(t, root.file(name, 0o755, 0, []byte(text)))
	}
	return root
}

// publish puts a tree into a registry, for one architecture, and returns its digest.
func publish(t *testing.T, ref, architecture string, root *tree) string {
	t.Helper()
	var layer bytes.Buffer
	require.NoError(t, writeTar(&layer, root))
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: architecture})
	require.NoError(t, err)
	img, err = mutate.AppendLayers(img, static.NewLayer(layer.Bytes(), types.OCIUncompressedLayer))
	require.NoError(t, err)
	tag, err := name.NewTag(ref)
	require.NoError(t, err)
	require.NoError(t, remote.Write(tag, img))
	digest, err := img.Digest()
	require.NoError(t, err)
	return digest.String()
}

// aptGet plays apt-get: it writes down how it is called, and each package as a file.
const aptGet = `#!/bin/sh
echo "apt-get $*"
[ -e /usr/sbin/policy-rc.d ] || exit 9
for last; do :; done
case " $* " in
*" update "*) [ -z "$FAIL" ] || exit 100 ;;
*" install "*)
	cat /.firerunner/apt/given.sources 2>/dev/null
	for p; do case $p in -*|*=*|install) ;; *) echo "$p" >>/etc/installed; esac; done ;;
esac
`

func fromBench(t *testing.T, root *tree) (*bench, string) {
	t.Helper()
	h := newHub(t)
	b := newBench(t)
	b.Registry = quick()
	b.recipe.From = h.ref("team/base:v1")
	return b, publish(t, b.recipe.From, "amd64", root)
}

func TestBuildFromOK(t *testing.T) {
	b, digest := fromBench(t, stillTree(t))
	img, err := b.build(t)
	require.NoError(t, err)
	require.Equal(t, []string{"agent", "gitlab-runner", "from", "base", "kernel", "pull", "keep", "root file system", "initial RAM disk", "digests"}, b.steps)
	m, err := b.Store.Inspect(t.Context(), "default")
	require.NoError(t, err)
	repository, _, _ := strings.Cut(strings.TrimPrefix(b.recipe.From, ""), ":v1")
	require.Equal(t, repository+"@"+digest, m.From)
	require.Equal(t, []Package{{"base-files", "12"}}, m.Packages)
	root := treeOf(t, img)
	require.Equal(t, "ours", textOf(t, root, "etc/team"))
	require.Equal(t, "root:x:0:0:root:/root:/bin/sh\nci:x:1000:1000:CI job:/home/ci:/bin/bash\n", textOf(t, root, "etc/passwd"), "a job is nobody else")
	require.True(t, root.has(agentPath) && root.has(runnerPath))
	require.False(t, root.has("var/lib/dpkg/info"), "nothing of Debian's own base")
	require.NoError(t, b.Store.Verify(t.Context(), "default"))
	b.requireClean(t)

	b.steps = nil
	again, err := b.build(t)
	require.NoError(t, err)
	require.Equal(t, img, again)
	require.Equal(t, []string{"agent", "gitlab-runner", "from", "base", "base", "image"}, b.steps, "nothing is downloaded twice")
	require.Equal(t, int32(1), b.bases.Load())

	changed := stillTree(t)
	require.NoError(t, changed.file("etc/team", 0o644, 0, []byte("newer")))
	newer := publish(t, b.recipe.From, "amd64", changed)
	other, err := b.build(t)
	require.NoError(t, err)
	require.NotEqual(t, img.Digest, other.Digest, "the tag is another image now")
	b.recipe.From = repository + "@" + digest
	pinned, err := b.build(t)
	require.NoError(t, err)
	require.Equal(t, img.Digest, pinned.Digest)
	require.NotEqual(t, digest, newer)
	require.Equal(t, int32(1), b.bases.Load(), "the kernel's base stays")
	b.requireClean(t)
}

func TestBuildFromPackagesOK(t *testing.T) {
	root := foreignTree(t)
	require.NoError(t, root.file("usr/bin/apt-get", 0o755, 0, []byte(aptGet)))
	require.NoError(t, addProgram(root, "bin/rm", "/bin/rm"))
	require.NoError(t, root.directory("usr/sbin", 0o755, 0))
	delete(root.root.children["usr"].children["bin"].children, "git")
	b, _ := fromBench(t, root)
	b.root = tarOf(t, [2]string{"./lib/modules/6.1/modules.dep", "dep"},
		[2]string{"./var/lib/dpkg/status", "Package: git\nStatus: install ok installed\nVersion: 1\n"})
	b.recipe.Packages, b.recipe.SSHD = []string{"make"}, true
	b.recipe.FromMirrors = []string{"deb http://mirror.test/ubuntu jammy main universe"}
	var said []string
	img, err := b.Build(t.Context(), b.recipe, func(p Progress) { said = append(said, p.Output) })
	require.NoError(t, err)
	after := treeOf(t, img)
	require.Equal(t, "make\ngit\nopenssh-server\nsystemd-sysv\nudev\nkmod\n", textOf(t, after, "etc/installed"), "what is asked for, and what is missing")
	require.False(t, after.has("usr/sbin/policy-rc.d"))
	require.False(t, after.has(".firerunner"))
	require.Contains(t, strings.Join(said, "\n"), "URIs: http://mirror.test/ubuntu")
	require.Contains(t, strings.Join(said, "\n"), "-o Dir::Etc::sourceparts=/.firerunner/apt")
}

func TestBuildFromErr(t *testing.T) {
	bare := func(t *testing.T) *tree {
		root := newTree()
		require.NoError(t, root.file("etc/x", 0o644, 0, nil))
		return root
	}
	for what, tc := range map[string]struct {
		root   func(t *testing.T) *tree
		change func(b *bench)
		code   firerunner.Code
		want   string
	}{
		"no shell":         {root: bare, code: firerunner.Invalid, want: "no /bin/sh"},
		"no apt":           {root: stillTree, change: func(b *bench) { b.recipe.SSHD = true }, code: firerunner.Invalid, want: "lacks openssh-server"},
		"no tag":           {root: stillTree, change: func(b *bench) { b.recipe.From += "0" }, code: firerunner.NotFound, want: "look for"},
		"no reference":     {root: stillTree, change: func(b *bench) { b.recipe.From = "A B" }, code: firerunner.Invalid, want: "not one"},
		"too large":        {root: stillTree, change: func(b *bench) { b.Registry.Limit = 10 }, code: firerunner.Exhausted, want: "larger than"},
		"packages without": {root: stillTree, change: func(b *bench) { b.recipe.Packages = []string{"make"} }, code: firerunner.Invalid, want: "lacks make"},
		"apt fails": {root: func(t *testing.T) *tree {
			root := foreignTree(t)
			require.NoError(t, root.file("usr/bin/apt-get", 0o755, 0, []byte("#!/bin/sh\necho no mirror >&2; exit 100\n")))
			require.NoError(t, addProgram(root, "bin/rm", "/bin/rm"))
			require.NoError(t, root.directory("usr/sbin", 0o755, 0))
			return root
		}, change: func(b *bench) { b.recipe.Packages = []string{"make"} }, code: firerunner.Invalid, want: "no mirror"},
		"a mirror with a password": {root: func(t *testing.T) *tree {
			root := stillTree(t)
			require.NoError(t, root.file("usr/bin/apt-get", 0o755, 0, nil))
			return root
		}, change: func(b *bench) {
			b.recipe.Packages, b.recipe.FromMirrors = nil, []string{"deb http://me:pass@x.test/ubuntu jammy main"}
		}, code: firerunner.Invalid, want: "holds a password"},
		"a mirror that is not a line": {root: stillTree, change: func(b *bench) { b.recipe.FromMirrors = []string{"http://x.test/"} }, code: firerunner.Invalid, want: "apt source line"},
	} {
		b, _ := fromBench(t, tc.root(t))
		if tc.change != nil {
			tc.change(b)
		}
		_, err := b.build(t)
		require.ErrorContains(t, err, tc.want, what)
		require.Equal(t, tc.code, firerunner.CodeOf(err), "%s: %v", what, err)
		b.requireClean(t)
		all, err := b.Store.List(t.Context())
		require.NoError(t, err)
		require.Empty(t, all)
	}
	b, _ := fromBench(t, stillTree(t))
	publish(t, b.recipe.From, "riscv64", stillTree(t))
	_, err := b.build(t)
	require.ErrorContains(t, err, "it is for linux/riscv64")
}

// An image of a foreign system that starts by itself has the modules of our kernel.
func TestBuildFromNoAgentOK(t *testing.T) {
	root := stillTree(t)
	for _, path := range []string{"sbin/init", "sbin/modprobe", "usr/lib/systemd/systemd-udevd"} {
		require.NoError(t, root.file(path, 0o755, 0, []byte("x")))
	}
	b, _ := fromBench(t, root)
	b.recipe.NoAgent, b.recipe.AgentPath, b.recipe.RunnerPath = true, "", ""
	b.root = tarOf(t, [2]string{"./lib/modules/6.1/modules.dep", "dep"},
		[2]string{"./var/lib/dpkg/status", "Package: git\nStatus: install ok installed\nVersion: 1\n"})
	img, err := b.build(t)
	require.NoError(t, err)
	after := treeOf(t, img)
	require.Equal(t, "dep", textOf(t, after, "lib/modules/6.1/modules.dep"))
	require.Equal(t, "ours", textOf(t, after, "etc/team"))
	require.False(t, after.has(agentPath))
}

func scriptOf(t *testing.T, text string) Script {
	t.Helper()
	s, err := ReadScript(writeFile(t, filepath.Join(t.TempDir(), "setup.sh"), text, 0o600))
	require.NoError(t, err)
	return s
}

func TestBuildScriptsOK(t *testing.T) {
	b, _ := fromBench(t, foreignTree(t))
	b.recipe.Scripts = []Script{scriptOf(t, "echo one >/etc/made; echo said; id -u"), scriptOf(t, "#!/bin/sh\ncat /proc/net/dev >>/etc/made\n")}
	var said []string
	img, err := b.Build(t.Context(), b.recipe, func(p Progress) { said = append(said, p.Output) })
	require.NoError(t, err)
	require.Contains(t, said, "said")
	made := textOf(t, treeOf(t, img), "etc/made")
	require.True(t, strings.HasPrefix(made, "one\n"), made)
	require.Equal(t, 4, strings.Count(made, "\n"), "one interface, the loopback: %s", made)
	m, err := b.Store.Inspect(t.Context(), "default")
	require.NoError(t, err)
	require.Equal(t, b.recipe.Scripts[0].SHA256, m.Recipe.Scripts[0].SHA256)

	b.recipe.Scripts = b.recipe.Scripts[:1]
	other, err := b.build(t)
	require.NoError(t, err)
	require.NotEqual(t, img.Digest, other.Digest, "the scripts are part of the image's key")
	require.Equal(t, "one\n", textOf(t, treeOf(t, other), "etc/made"))
	writeFile(t, b.recipe.AgentPath, sayer(t, "fireguest 1.1\n"), 0o755)
	b.steps = nil
	_, err = b.build(t)
	require.NoError(t, err)
	require.NotContains(t, b.steps, "run setup.sh", "what the scripts made is kept")
	b.requireClean(t)
}

// Debian's own base is changed by scripts in the same way, and stays as it was for others.
func TestBuildScriptsOnBaseOK(t *testing.T) {
	b := newBench(t)
	var root strings.Builder
	require.NoError(t, writeTar(&root, foreignTree(t)))
	b.root = []byte(root.String())
	plain, err := b.build(t)
	require.NoError(t, err)
	b.recipe.Scripts = []Script{scriptOf(t, "echo one >/etc/made")}
	img, err := b.build(t)
	require.NoError(t, err)
	require.Equal(t, "one\n", textOf(t, treeOf(t, img), "etc/made"))
	require.Equal(t, int32(1), b.bases.Load())
	b.recipe.Scripts = nil
	again, err := b.build(t)
	require.NoError(t, err)
	require.Equal(t, plain.Digest, again.Digest)
}

func TestBuildScriptsErr(t *testing.T) {
	b, _ := fromBench(t, foreignTree(t))
	b.recipe.Scripts = []Script{scriptOf(t, "echo trying; cat /none; exit 7")}
	_, err := b.build(t)
	require.ErrorContains(t, err, "run setup.sh: exit status 7: trying")
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
	require.Contains(t, firerunner.HintOf(err), "--run-network")
	b.requireClean(t)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.recipe.Scripts = []Script{scriptOf(t, "echo begun; sleep 1000")}
	_, err = b.Build(ctx, b.recipe, func(p Progress) {
		if p.Output == "begun" {
			cancel()
		}
	})
	require.ErrorIs(t, err, context.Canceled)
	b.requireClean(t)

	b.Inside = nil
	_, err = b.build(t)
	require.ErrorContains(t, err, "no sandbox")
	for path, text := range map[string]string{"empty": " \n", "large": strings.Repeat("x", maxScript+1)} {
		_, err = ReadScript(writeFile(t, filepath.Join(t.TempDir(), path), text, 0o600))
		require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
	}
	_, err = ReadScript("/none")
	require.ErrorIs(t, err, os.ErrNotExist)
	b.recipe.Scripts = make([]Script, maxScripts+1)
	_, err = b.build(t)
	require.ErrorContains(t, err, "scripts; at most")
}
