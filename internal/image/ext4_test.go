package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sampleTree has one of everything that a tree can hold.
func sampleTree(t *testing.T) *tree {
	t.Helper()
	r := newTree()
	r.root.mtime, r.root.mode = 1_600_000_000, 0o711
	add := func(name string, n *node) {
		n.mtime = 1_700_000_000
		require.NoError(t, r.set(name, n))
	}
	require.NoError(t, r.directory("builds", 0o700, 1000))
	add("etc/hostname", &node{mode: 0o644, size: 5, content: literal("guest")})
	add("etc/empty", &node{mode: 0o600})
	add("bin", &node{kind: kindLink, mode: 0o777, target: "usr/bin"})
	add("usr/bin/ping", &node{mode: 0o755, size: 4, content: literal("ping"), caps: []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")})
	add("usr/bin/su", &node{mode: 0o4755, size: 2, content: literal("su")})
	ping, err := r.lookup("bin/ping")
	require.NoError(t, err)
	add("usr/bin/ping6", ping)
	add("long", &node{kind: kindLink, mode: 0o777, target: strings.Repeat("x/", 100)})
	add("pipe", &node{kind: kindPipe, mode: 0o622})
	add("late", &node{mode: 0o644, uid: 100_000, gid: 70_000, size: 3, content: literal("big")})
	late, err := r.lookup("late")
	require.NoError(t, err)
	late.mtime = 1<<32 + 5
	big := bytes.Repeat([]byte("0123456789abcdef"), 40_000)
	copy(big[100_000:400_000], make([]byte, 300_000))
	add("big", &node{mode: 0o644, size: int64(len(big)), content: literal(big)})
	for i := range 600 {
		add(fmt.Sprintf("many/%s-%03d", strings.Repeat("n", 40), i), &node{mode: 0o644, size: 1, content: literal("m")})
	}
	return r
}

func tarBytes(t *testing.T, r *tree) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, writeTar(&b, r))
	return b.Bytes()
}

func writeImage(t *testing.T, r *tree, free int64) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "fs"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, writeExt4(f, r, free))
	return f.Name()
}

// requireSound lets e2fsck look at every bit of a file system.
func requireSound(t *testing.T, path string) {
	t.Helper()
	fsck, err := look("e2fsck")
	require.NoError(t, err)
	out, err := exec.Command(fsck, "-fn", path).CombinedOutput()
	require.NoError(t, err, string(out))
}

// What is written is a file system without a fault, and reads as what it was; twice it is the same bytes.
func TestExt4OK(t *testing.T) {
	r := sampleTree(t)
	path := writeImage(t, r, 64<<20)
	requireSound(t, path)
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Stat()
	require.NoError(t, err)
	back, err := readExt4(f, info.Size())
	require.NoError(t, err)
	require.Equal(t, sha256.Sum256(tarBytes(t, r)), sha256.Sum256(tarBytes(t, back)))
	again, err := sparseSHA256(writeImage(t, back, 64<<20))
	require.NoError(t, err)
	sum, err := sparseSHA256(path)
	require.NoError(t, err)
	require.Equal(t, sum, again)
	contents, err := newSpool(filepath.Join(t.TempDir(), "contents"))
	require.NoError(t, err)
	defer contents.close()
	fromTar := newFlattener(contents)
	require.NoError(t, fromTar.add(t.Context(), bytes.NewReader(tarBytes(t, r))))
	again, err = sparseSHA256(writeImage(t, fromTar.tree, 64<<20))
	require.NoError(t, err)
	require.Equal(t, sum, again, "by way of a registry too")
	stored, err := allocated(path)
	require.NoError(t, err)
	require.Less(t, stored, int64(4<<20), "zeros are holes")
}

// A file in more than four pieces, because copies of the superblock lie in between, has blocks for its extents.
func TestExt4LargeFileOK(t *testing.T) {
	r := newTree()
	require.NoError(t, r.set("large", &node{mode: 0o644, size: 1200 << 20, content: hole(1200 << 20)}))
	path := writeImage(t, r, 1<<20)
	requireSound(t, path)
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	info, _ := f.Stat()
	back, err := readExt4(f, info.Size())
	require.NoError(t, err)
	n, err := back.lookup("large")
	require.NoError(t, err)
	require.Greater(t, len(n.content.(pieces).extents), 4)
}

type hole int64

func (h hole) open() io.Reader { return io.LimitReader(zeros{}, int64(h)) }

// A file system that mkfs.ext4 made from a directory is read as well.
func TestReadExt4OfMkfsOK(t *testing.T) {
	mkfs, err := look("mkfs.ext4")
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(dir+"/in/sub", 0o755))
	for i := range 300 {
		writeFile(t, fmt.Sprintf("%s/in/sub/file-%d-%s", dir, i, strings.Repeat("x", 50)), "text", 0o640)
	}
	require.NoError(t, os.Symlink("sub", dir+"/in/link"))
	out, err := exec.Command(mkfs, "-q", "-F", "-b", "4096", "-d", dir+"/in", dir+"/fs", "64M").CombinedOutput()
	require.NoError(t, err, string(out))
	f, err := os.Open(dir + "/fs")
	require.NoError(t, err)
	defer f.Close()
	r, err := readExt4(f, 64<<20)
	require.NoError(t, err)
	sub, err := r.lookup("link")
	require.NoError(t, err)
	require.Len(t, sub.children, 300)
	text, err := r.read("link/file-7-"+strings.Repeat("x", 50), 10)
	require.NoError(t, err)
	require.Equal(t, "text", string(text))
}

func FuzzReadExt4(f *testing.F) {
	dir := f.TempDir()
	file, err := os.Create(dir + "/fs")
	if err != nil {
		f.Fatal(err)
	}
	r := newTree()
	if err := errors.Join(r.file("a/b", 0o644, 0, []byte("text")), writeExt4(file, r, 0)); err != nil {
		f.Fatal(err)
	}
	// Only what is not zero can be worth a change: offset and value.
	f.Add(uint32(1024+56), uint32(1))
	f.Add(uint32(1024+40), uint32(0))
	f.Add(uint32(4096+8), uint32(0xffffffff))
	f.Add(uint32(0x1005), uint32(0xffffffff)) // a root of no known type
	f.Fuzz(func(t *testing.T, offset, value uint32) {
		info, _ := file.Stat()
		_, _ = readExt4(changed{file, int64(offset) % (1 << 22), value}, info.Size())
	})
}

// changed is a file with four bytes of it changed.
type changed struct {
	io.ReaderAt
	offset int64
	value  uint32
}

func (c changed) ReadAt(b []byte, at int64) (int, error) {
	n, err := c.ReaderAt.ReadAt(b, at)
	for i := range int64(4) {
		if p := c.offset + i - at; p >= 0 && p < int64(n) {
			b[p] = byte(c.value >> (8 * i))
		}
	}
	return n, err
}

func TestWriteTarOK(t *testing.T) {
	in := tar.NewReader(bytes.NewReader(tarBytes(t, sampleTree(t))))
	var names []string
	for {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		switch h.Name {
		case "usr/bin/ping6":
			require.Equal(t, byte(tar.TypeLink), h.Typeflag)
			require.Equal(t, "usr/bin/ping", h.Linkname)
		case "usr/bin/ping":
			require.NotEmpty(t, h.PAXRecords[capabilityRecord])
		}
		if !strings.HasPrefix(h.Name, "many/n") {
			names = append(names, h.Name)
		}
	}
	require.Equal(t, []string{"./", "big", "bin", "builds/", "etc/", "etc/empty", "etc/hostname", "late", "long", "many/", "pipe", "usr/", "usr/bin/", "usr/bin/ping", "usr/bin/ping6", "usr/bin/su"}, names)
}
