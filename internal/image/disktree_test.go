package image

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A tree that goes to a disk and back is as it was, and so is its tar file.
func TestDiskTreeOK(t *testing.T) {
	uid, gid := os.Getuid(), os.Getgid()
	root := newTree()
	put := func(name string, n *node) {
		n.uid, n.gid, n.mtime = uid, gid, 1234567
		require.NoError(t, root.set(name, n))
	}
	root.root.uid, root.root.gid, root.root.mtime = uid, gid, 1234567
	dir := newDir()
	dir.mode = 0o1777
	put("dir", dir)
	put("dir/empty", &node{mode: 0o600})
	put("dir/setuid", &node{mode: 0o4755, size: 3, content: literal("abc")})
	put("dir/pipe", &node{kind: kindPipe, mode: 0o640})
	put("link", &node{kind: kindLink, mode: 0o777, target: "/etc/passwd"})
	same, err := root.lookup("dir/setuid")
	require.NoError(t, err)
	require.NoError(t, root.set("same", same))
	var before, after bytes.Buffer
	require.NoError(t, writeTar(&before, root))

	at := t.TempDir()
	require.NoError(t, unpackTree(at, bytes.NewReader(before.Bytes())))
	require.NoError(t, os.Mkdir(filepath.Join(at, "skipped"), 0o755))
	writeFile(t, filepath.Join(at, "skipped", "x"), "x", 0o644)
	if uid == 0 {
		require.NoError(t, unix.Mknod(filepath.Join(at, "device"), unix.S_IFCHR|0o600, 0x103))
	}
	require.NoError(t, os.Chtimes(at, time.Unix(1234567, 0), time.Unix(1234567, 0)))
	var packed bytes.Buffer
	require.NoError(t, packTree(&packed, at, func(name string) bool { return name == "skipped" }))
	contents, err := newSpool(filepath.Join(t.TempDir(), "contents"))
	require.NoError(t, err)
	defer contents.close()
	flat := newFlattener(contents)
	require.NoError(t, flat.add(t.Context(), &packed))
	require.NoError(t, writeTar(&after, flat.tree))
	require.True(t, bytes.Equal(before.Bytes(), after.Bytes()))
	require.NoError(t, removeWithin(at))
	left, err := os.ReadDir(at)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestDiskTreeErr(t *testing.T) {
	at := t.TempDir()
	require.Error(t, unpackTree(at, bytes.NewReader([]byte("not a tar file, by far not"))))
	var b bytes.Buffer
	root := newTree()
	require.NoError(t, root.file("x", 0o644, 0, []byte("x")))
	require.NoError(t, writeTar(&b, root))
	writeFile(t, filepath.Join(at, "x"), "there", 0o644)
	require.ErrorContains(t, unpackTree(at, bytes.NewReader(b.Bytes())), "unpack x")
	require.Error(t, packTree(&b, filepath.Join(at, "none"), nil))
	require.Error(t, removeWithin(filepath.Join(at, "none")))
}
