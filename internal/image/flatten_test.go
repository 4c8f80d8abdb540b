package image

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func flat(t testing.TB, layers ...[]tar.Header) (*tree, error) {
	t.Helper()
	contents, err := newSpool(filepath.Join(t.TempDir(), "contents"))
	require.NoError(t, err)
	t.Cleanup(contents.close)
	f := newFlattener(contents)
	for _, entries := range layers {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range entries {
			if h.Typeflag == tar.TypeReg {
				h.Size = int64(len(h.Name))
			}
			h.Mode = 0o755
			require.NoError(t, w.WriteHeader(&h))
			if h.Typeflag == tar.TypeReg {
				_, err := io.WriteString(w, h.Name)
				require.NoError(t, err)
			}
		}
		require.NoError(t, w.Close())
		if err := f.add(t.Context(), &b); err != nil {
			return nil, err
		}
	}
	return f.tree, nil
}

func file(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }
func dir(name string) tar.Header  { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
func link(name, to string) tar.Header {
	return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}
}

func hard(name, to string) tar.Header {
	return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeLink}
}

// listing is every path of a tree.
func listing(d *node, at string) (all []string) {
	for _, name := range d.names() {
		n := d.children[name].node
		switch n.kind {
		case kindDir:
			all = append(all, at+name+"/")
			all = append(all, listing(n, at+name+"/")...)
		case kindLink:
			all = append(all, at+name+"->"+n.target)
		case kindFile, kindPipe:
			all = append(all, at+name)
		}
	}
	return all
}

func TestFlattenOK(t *testing.T) {
	type layers = [][]tar.Header
	for what, tc := range map[string]struct {
		in   layers
		want string
	}{
		"later wins":                {layers{{file("a"), file("b/c")}, {dir("a"), file("a/x"), file("b/d")}}, "a/ a/x b/ b/c b/d"},
		"whiteout":                  {layers{{file("a"), file("b/c"), file("b/d")}, {file("b/.wh.c"), file(".wh.a"), file(".wh.none")}}, "b/ b/d"},
		"whiteout of own spares":    {layers{{file("a")}, {file("a"), file(".wh.a")}}, "a"},
		"opaque":                    {layers{{file("d/old"), file("d/sub/old")}, {file("d/new"), file("d/.wh..wh..opq")}}, "d/ d/new"},
		"opaque, restated below":    {layers{{file("d/sub/old")}, {dir("d"), dir("d/sub"), file("d/sub/new"), file("d/.wh..wh..opq")}}, "d/ d/sub/ d/sub/new"},
		"aufs":                      {layers{{file("a"), dir(".wh..wh.plnk")}}, "a"},
		"link stays inside":         {layers{{link("etc", "/../../../tmp/x"), file("etc/passwd")}}, "etc->/../../../tmp/x tmp/ tmp/x/ tmp/x/passwd"},
		"through links":             {layers{{dir("usr/bin"), link("bin", "usr/bin")}, {file("bin/tool"), file("bin/.wh.none")}}, "bin->usr/bin usr/ usr/bin/ usr/bin/tool"},
		"link in place is replaced": {layers{{link("a", "/etc/passwd")}, {file("a")}}, "a"},
		"hard link":                 {layers{{file("a"), hard("b", "/a")}, {file("a")}}, "a b"},
		"absolute and dots":         {layers{{file("/a"), file("./b"), file("c//d/./e"), dir("./")}}, "a b c/ c/d/ c/d/e"},
		"no devices":                {layers{{{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, {Name: "sda", Typeflag: tar.TypeBlock}, {Name: "p", Typeflag: tar.TypeFifo}}}, "p"},
	} {
		r, err := flat(t, tc.in...)
		require.NoError(t, err, what)
		require.Equal(t, tc.want, strings.Join(listing(r.root, ""), " "), what)
	}
}

// sparseLayer is a tar file of 2 KiB with a file of 16 GiB: GNU's PAX format 0.1.
func sparseLayer(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	record := func(key, value string) string {
		n := len(key) + len(value) + 3
		for len(fmt.Sprint(n))+len(key)+len(value)+3 != n {
			n++
		}
		return fmt.Sprintf("%d %s=%s\n", n, key, value)
	}
	records := record("GNU.sparse.numblocks", "1") + record("GNU.sparse.map", "17179869183,1") + record("GNU.sparse.size", "17179869184")
	block := func(name string, kind byte, data string) {
		h := make([]byte, 512)
		copy(h, name)
		copy(h[100:], "0000644\x000000000\x000000000\x00")
		copy(h[124:], fmt.Sprintf("%011o\x0000000000000\x00", len(data)))
		copy(h[148:], "        ")
		h[156] = kind
		copy(h[257:], "ustar\x0000")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
		b.Write(h)
		b.WriteString(data + strings.Repeat("\x00", (512-len(data)%512)%512))
	}
	block("pax", tar.TypeXHeader, records)
	block("bomb", tar.TypeReg, "x")
	b.Write(make([]byte, 1024))
	return b.Bytes()
}

func TestFlattenErrSparse(t *testing.T) {
	in := tar.NewReader(bytes.NewReader(sparseLayer(t)))
	h, err := in.Next()
	require.NoError(t, err)
	require.Equal(t, int64(16<<30), h.Size, "it is what it should be")
	contents, err := newSpool(filepath.Join(t.TempDir(), "contents"))
	require.NoError(t, err)
	defer contents.close()
	require.ErrorContains(t, newFlattener(contents).add(t.Context(), bytes.NewReader(sparseLayer(t))), "a sparse file")
	require.Zero(t, contents.size)
}

func TestFlattenErr(t *testing.T) {
	for want, entries := range map[string][]tar.Header{
		"not a path inside":       {file("../etc/passwd")},
		"inside the root":         {file("a/../../b")},
		"path inside":             {file(".wh...")},
		"a path inside":           {file(strings.Repeat("x", 300))},
		"is not a directory":      {file("a"), file("a/b")},
		"too many symbolic links": {link("a", "b"), link("b", "a"), file("a/x")},
		"leads nowhere":           {link("a", strings.Repeat("x", 5000))},
		"it is not there":         {hard("a", "none")},
		"hard link to":            {hard("a", "../../etc/passwd")},
		"to a directory":          {dir("d"), hard("d/e", "d")},
		"entry of type":           {{Name: "x", Typeflag: tar.TypeCont}},
	} {
		_, err := flat(t, entries)
		require.ErrorContains(t, err, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	contents, err := newSpool(filepath.Join(t.TempDir(), "contents"))
	require.NoError(t, err)
	defer contents.close()
	require.ErrorIs(t, newFlattener(contents).add(ctx, bytes.NewReader(tarOfNothing)), context.Canceled)
}

// FuzzFlatten: whatever a layer holds, the tree that comes of it is one that can be written, and reads as itself.
func FuzzFlatten(f *testing.F) {
	for _, name := range []string{"a/b", ".wh.a", "d/.wh..wh..opq", "../x"} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		_ = w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 1})
		_, _ = w.Write([]byte("x"))
		_ = w.WriteHeader(&tar.Header{Name: "s", Linkname: "/a/../b", Typeflag: tar.TypeSymlink})
		_ = w.WriteHeader(&tar.Header{Name: "s/h", Linkname: "a/b", Typeflag: tar.TypeLink})
		_ = w.Close()
		f.Add(b.Bytes())
	}
	contents, err := newSpool(filepath.Join(f.TempDir(), "contents"))
	require.NoError(f, err)
	defer contents.close()
	f.Fuzz(func(t *testing.T, layer []byte) {
		flattener := newFlattener(contents)
		if flattener.add(t.Context(), bytes.NewReader(layer)) != nil {
			return
		}
		var once, twice bytes.Buffer
		require.NoError(t, writeTar(&once, flattener.tree))
		again := newFlattener(contents)
		require.NoError(t, again.add(t.Context(), bytes.NewReader(once.Bytes())))
		require.NoError(t, writeTar(&twice, again.tree))
		require.True(t, bytes.Equal(once.Bytes(), twice.Bytes()), "%q\n%q", once.Bytes(), twice.Bytes())
	})
}
