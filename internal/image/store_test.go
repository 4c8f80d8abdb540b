package image

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// put makes an image of small files and installs it.
func put(t *testing.T, s *Store, name, kernel string, builtAt int64) firerunner.Image {
	t.Helper()
	dir, remove, err := scratch(t.Context(), s.tmp())
	require.NoError(t, err)
	defer remove()
	out := filepath.Join(dir, "image")
	require.NoError(t, os.Mkdir(out, 0o755))
	for file, text := range map[string]string{kernelFile: kernel, initrdFile: "i", rootfsFile: "r"} {
		writeFile(t, filepath.Join(out, file), text, 0o644)
	}
	m := &Manifest{Recipe: Recipe{Name: name}, BuiltAt: time.Unix(builtAt, 0).UTC(), Cmdline: "quiet"}
	require.NoError(t, m.measure(out))
	require.NoError(t, writeJSON(filepath.Join(out, manifestFile), m))
	img, err := s.install(t.Context(), out, m)
	require.NoError(t, err)
	return img
}

func TestStoreOK(t *testing.T) {
	ctx, s := t.Context(), &Store{Dir: filepath.Join(t.TempDir(), "images")}
	all, err := s.List(ctx)
	require.NoError(t, err)
	require.Empty(t, all)

	one := put(t, s, "default", "one", 1)
	two := put(t, s, "default", "two", 2)
	require.Equal(t, two.Digest, put(t, s, "extra", "two", 2).Digest, "the same image by another name")
	all, err = s.List(ctx)
	require.NoError(t, err)
	require.Len(t, all, 3)
	require.Equal(t, []string{"default", "extra", ""}, []string{all[0].Name, all[1].Name, all[2].Name})

	got, err := s.Resolve(ctx, "default")
	require.NoError(t, err)
	require.Equal(t, two, got)
	for _, ref := range []string{one.Digest, one.Digest[7:15], one.Digest[:15]} {
		got, err = s.Resolve(ctx, ref)
		require.NoError(t, err, ref)
		require.Equal(t, one.Digest, got.Digest)
		require.Empty(t, got.Name)
	}
	for _, ref := range []string{"", "none", one.Digest[7:10], "../../etc"} {
		_, err = s.Resolve(ctx, ref)
		require.Equal(t, firerunner.NotFound, firerunner.CodeOf(err), ref)
	}

	removed, err := s.Prune(ctx, time.Unix(1, 0), nil)
	require.NoError(t, err)
	require.Empty(t, removed, "too new")
	_, err = s.Prune(ctx, time.Unix(9, 0), func(string) bool { return true })
	require.NoError(t, err)
	three := put(t, s, "old", "three", 3)
	put(t, s, "old", "four", 4)
	removed, err = s.Prune(ctx, time.Unix(9, 0), func(digest string) bool { return digest == one.Digest })
	require.NoError(t, err)
	require.Equal(t, []string{three.Digest}, removed)

	err = s.Remove(ctx, "extra", func(digest string) bool { return digest == two.Digest })
	require.Equal(t, firerunner.Conflict, firerunner.CodeOf(err))
	require.NoError(t, s.Remove(ctx, "extra", nil))
	_, err = s.Resolve(ctx, "default")
	require.Equal(t, firerunner.NotFound, firerunner.CodeOf(err), "its other name is gone too")
	require.NoDirExists(t, filepath.Dir(two.Kernel))
	require.NoError(t, s.Verify(ctx, one.Digest))
}

func TestStoreErrVerify(t *testing.T) {
	ctx, s := t.Context(), &Store{Dir: t.TempDir()}
	img := put(t, s, "default", "one", 1)
	writeFile(t, img.Kernel, "another", 0o644)
	require.ErrorContains(t, s.Verify(ctx, "default"), "kernel is not what was built")
	writeFile(t, img.Kernel, "one", 0o644)
	require.NoError(t, s.Verify(ctx, "default"))
	m, err := s.Inspect(ctx, "default")
	require.NoError(t, err)
	m.Cmdline = "init=/bin/sh"
	require.NoError(t, writeJSON(filepath.Join(filepath.Dir(img.Kernel), manifestFile), m))
	require.ErrorContains(t, s.Verify(ctx, "default"), "manifest")
	require.NoError(t, os.Remove(img.Initrd))
	require.Error(t, s.Verify(ctx, "default"))
	writeFile(t, filepath.Join(filepath.Dir(img.Kernel), manifestFile), "{", 0o644)
	_, err = s.List(ctx)
	require.Error(t, err)
	require.Error(t, s.Verify(ctx, "default"))
	require.Error(t, s.Verify(ctx, "none"))
	_, err = s.Inspect(ctx, "none")
	require.Error(t, err)
	require.Error(t, s.Remove(ctx, "none", nil))
}

func TestLockErrContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = lock(ctx, path)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	unlock()
	unlock, err = lock(t.Context(), path)
	require.NoError(t, err)
	unlock()
	_, err = lock(t.Context(), filepath.Join(path, "x"))
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
	_, _, err = scratch(t.Context(), filepath.Join(path, "x"))
	require.Error(t, err)
}

// A digest of a sparse file is one of its content, not of how it is stored.
func TestSparseSHA256OK(t *testing.T) {
	dir := t.TempDir()
	sparse, full := filepath.Join(dir, "sparse"), filepath.Join(dir, "full")
	f, err := os.Create(sparse)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("data"), 5<<20+17)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(20<<20+3))
	require.NoError(t, f.Close())
	text, err := os.ReadFile(sparse)
	require.NoError(t, err)
	writeFile(t, full, string(text), 0o644)
	a, err := sparseSHA256(sparse)
	require.NoError(t, err)
	b, err := sparseSHA256(full)
	require.NoError(t, err)
	require.Equal(t, a, b)
	text[5<<20+18] = 'X'
	writeFile(t, full, string(text), 0o644)
	c, err := sparseSHA256(full)
	require.NoError(t, err)
	require.NotEqual(t, a, c)
	require.NoError(t, os.Truncate(sparse, 20<<20))
	c, err = sparseSHA256(sparse)
	require.NoError(t, err)
	require.NotEqual(t, a, c, "the length counts")
}
