package flintlocktest

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// layer makes a layer of lines "TYPE NAME [CONTENT]": d folder, f file, l link, h hard link, c device.
func layer(t testing.TB, lines ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, line := range lines {
		parts := append(strings.SplitN(line, " ", 3), "")
		head := tar.Header{Name: parts[1], Mode: 0o644, Uid: os.Getuid(), Gid: os.Getgid()}
		content := ""
		switch parts[0] {
		case "d":
			head.Typeflag, head.Mode = tar.TypeDir, 0o755
		case "f":
			head.Typeflag, content = tar.TypeReg, parts[2]
		case "s":
			head.Typeflag, head.Mode, content = tar.TypeReg, 0o4755, parts[2]
		case "l":
			head.Typeflag, head.Linkname = tar.TypeSymlink, parts[2]
		case "h":
			head.Typeflag, head.Linkname = tar.TypeLink, parts[2]
		case "c":
			head.Typeflag = tar.TypeChar
		}
		head.Size = int64(len(content))
		require.NoError(t, w.WriteHeader(&head))
		_, err := io.WriteString(w, content)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// unpacked lays layers on top of each other and lists what there is.
func unpacked(t testing.TB, dir string, layers ...[]byte) (files []string, err error) {
	t.Helper()
	tree, err := openTree(dir, 1<<20, 1000)
	require.NoError(t, err)
	defer tree.root.Close()
	for _, l := range layers {
		if err := tree.apply(bytes.NewReader(l)); err != nil {
			return nil, err
		}
	}
	require.NoError(t, tree.finish())
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, path)
		switch {
		case err != nil || name == ".":
			return err
		case e.IsDir():
			name += "/"
		case e.Type()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			name += " -> " + target
		default:
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			name += " " + string(text)
		}
		files = append(files, name)
		return nil
	})
	slices.Sort(files)
	return files, err
}

func TestTreeOK(t *testing.T) {
	for name, tc := range map[string]struct {
		layers [][]byte
		want   []string
	}{
		"later wins": {
			[][]byte{layer(t, "f a old", "d b", "f b/c x"), layer(t, "f a new", "f b now a file")},
			[]string{"a new", "b now a file"},
		},
		"folder stays": {
			[][]byte{layer(t, "d a", "f a/x 1"), layer(t, "d a", "f a/y 2"), layer(t, "f a/z 3")},
			[]string{"a/", "a/x 1", "a/y 2", "a/z 3"},
		},
		"file becomes folder": {
			[][]byte{layer(t, "f a 1"), layer(t, "d a", "f a/b 2")},
			[]string{"a/", "a/b 2"},
		},
		"whiteout": {
			[][]byte{layer(t, "f a/x 1", "f a/y 2", "d b", "f b/z 3"), layer(t, "f a/.wh.x", "f .wh.b")},
			[]string{"a/", "a/y 2"},
		},
		"whiteout of what the same layer has": {
			[][]byte{layer(t, "f a 1"), layer(t, "f a 2", "f .wh.a")},
			[]string{"a 2"},
		},
		"whiteout of nothing and of dots": {
			[][]byte{layer(t, "f a 1"), layer(t, "f .wh.zzz", "f .wh.", "f .wh...", "f .wh..")},
			[]string{"a 1"},
		},
		"opaque, whatever comes first": {
			[][]byte{layer(t, "f a/x 1", "f a/b/y 2", "f a/b/z 3"), layer(t, "f a/b/new 4", "f a/.wh..wh..opq")},
			[]string{"a/", "a/b/", "a/b/new 4"},
		},
		"links are followed inside": {
			[][]byte{layer(t, "d usr/lib", "l lib usr/lib", "l var/run /run"), layer(t, "f lib/x 1", "f var/run/y 2")},
			[]string{"lib -> usr/lib", "run/", "run/y 2", "usr/", "usr/lib/", "usr/lib/x 1", "var/", "var/run -> /run"},
		},
		"hard links": {
			[][]byte{layer(t, "f a 1"), layer(t, "h b a", "h c /a")},
			[]string{"a 1", "b 1", "c 1"},
		},
		"no devices": {[][]byte{layer(t, "c dev/null", "f dev/x 1")}, []string{"dev/", "dev/x 1"}},
		"names that leave": {
			[][]byte{layer(t, "f ../../a 1", "f /b 2", "d ./", "l up ../../..", "f up/etc/c 3")},
			[]string{"a 1", "b 2", "etc/", "etc/c 3", "up -> ../../.."},
		},
	} {
		t.Run(name, func(t *testing.T) {
			outside := t.TempDir()
			dir := filepath.Join(outside, "tree")
			require.NoError(t, os.Mkdir(dir, 0o755))
			got, err := unpacked(t, dir, tc.layers...)
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
			left, err := os.ReadDir(outside)
			require.NoError(t, err)
			require.Len(t, left, 1)
		})
	}
}

func TestTreeModes(t *testing.T) {
	dir := t.TempDir()
	_, err := unpacked(t, dir, layer(t, "s su 1"))
	require.NoError(t, err)
	info, err := os.Stat(filepath.Join(dir, "su"))
	require.NoError(t, err)
	require.Equal(t, fs.ModeSetuid|0o755, info.Mode())
}

// TestOwners: without being root, a disk gets the owners and modes all the same, by another way.
func TestOwners(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, head := range []tar.Header{
		{Name: "home/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "home/c i/", Typeflag: tar.TypeDir, Mode: 0o500, Uid: 1000, Gid: 1001},
		{Name: "home/c i/secret", Typeflag: tar.TypeReg, Mode: 0, Uid: 70000, Gid: 1},
		{Name: "home/c i/link", Typeflag: tar.TypeSymlink, Linkname: "secret", Mode: 0o777, Uid: 1000},
		{Name: "su", Typeflag: tar.TypeReg, Mode: 0o4755},
		{Name: "made/x", Typeflag: tar.TypeReg, Mode: 0o644, Uid: 5},
		{Name: "gone/x", Typeflag: tar.TypeReg, Mode: 0o644, Uid: 5},
		{Name: "quo\"te", Typeflag: tar.TypeReg, Mode: 0o644, Uid: 5},
	} {
		require.NoError(t, w.WriteHeader(&head))
	}
	require.NoError(t, w.Close())
	dir := t.TempDir()
	tree, err := openTree(dir, 1<<20, 100)
	require.NoError(t, err)
	defer tree.root.Close()
	tree.privilege = false
	require.NoError(t, tree.apply(&b))
	require.NoError(t, tree.apply(bytes.NewReader(layer(t, "f .wh.gone", "l gone made"))))
	require.NoError(t, tree.finish())
	disk := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, makeExt4(t.Context(), dir, disk, 4))
	require.NoError(t, setOwners(t.Context(), disk, tree.owned))
	for name, want := range map[string][]string{
		"/":                    {"User:     0 ", "Type: directory"},
		"/home":                {"User:     0 ", "Mode:  0755"},
		"\"/home/c i\"":        {"User:  1000 ", "Group:  1001 ", "Mode:  0500", "Type: directory"},
		"\"/home/c i/secret\"": {"User: 70000 ", "Group:     1 ", "Mode:  0000", "Type: regular"},
		"\"/home/c i/link\"":   {"User:  1000 ", "Type: symlink"},
		"/su":                  {"User:     0 ", "Mode:  04755"},
		"/made":                {"User:     0 ", "Type: directory"},
		"/made/x":              {"User:     5 "},
	} {
		out, err := exec.Command("debugfs", "-R", "stat "+name, disk).Output()
		require.NoError(t, err)
		for _, w := range want {
			require.Contains(t, string(out), w, name)
		}
	}
	fsck, err := exec.Command("e2fsck", "-f", "-n", disk).CombinedOutput()
	require.NoError(t, err, "%s", fsck)
	require.Error(t, setOwners(t.Context(), filepath.Join(dir, "none", "disk"), tree.owned))
}

func TestTreeErr(t *testing.T) {
	for want, l := range map[string][]byte{
		"too large":      layer(t, "f a "+strings.Repeat("x", 1<<19), "f b "+strings.Repeat("x", 1<<19), "f c 1"),
		"too many files": layer(t, strings.Split(strings.Repeat("f a\n", 1001), "\n")[:1001]...),
		"too many level": layer(t, "l a b", "l b a", "f a/x 1"),
		"not a folder":   layer(t, "f a 1", "f a/b 2"),
		"no such file":   layer(t, "h a nothing"),
		"unexpected EOF": layer(t, "f a 1")[:512],
	} {
		_, err := unpacked(t, t.TempDir(), l)
		require.ErrorContains(t, err, want)
	}
}

func TestTreeFile(t *testing.T) {
	dir := t.TempDir()
	_, err := unpacked(t, dir, layer(t, "f boot/vmlinux-6 K", "l vmlinux /boot/vmlinux", "l boot/vmlinux vmlinux-6", "l out /../../etc/passwd", "l loop loop"))
	require.NoError(t, err)
	tree, err := openTree(dir, 0, 0)
	require.NoError(t, err)
	defer tree.root.Close()
	for _, name := range []string{"vmlinux", "/vmlinux", "boot/vmlinux", "boot/../vmlinux", "../boot/vmlinux-6"} {
		at, err := tree.file(name)
		require.NoError(t, err, name)
		require.Equal(t, "boot/vmlinux-6", at)
	}
	for name, want := range map[string]string{"boot": "not a regular", "out": "no such", "loop": "too many", "x/y": "no such", "": "not a regular"} {
		_, err := tree.file(name)
		require.ErrorContains(t, err, want, name)
	}
}

// FuzzTree: whatever a layer says, nothing outside the tree changes.
func FuzzTree(f *testing.F) {
	f.Add(layer(f, "d a", "l a/b ../..", "f a/b/c 1", "f a/.wh..wh..opq"), layer(f, "h x ../y", "f .wh.a"))
	f.Add(layer(f, "l a /", "d a/../b", "c x"), []byte("not a tar"))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		outside := t.TempDir()
		dir := filepath.Join(outside, "tree")
		require.NoError(t, os.Mkdir(dir, 0o755))
		tree, err := openTree(dir, 1<<16, 100)
		require.NoError(t, err)
		defer tree.root.Close()
		_ = tree.apply(bytes.NewReader(first))
		_ = tree.apply(bytes.NewReader(second))
		_ = tree.finish()
		left, err := os.ReadDir(outside)
		require.NoError(t, err)
		require.Len(t, left, 1)
	})
}
