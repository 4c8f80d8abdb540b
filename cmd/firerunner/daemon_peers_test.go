package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// TestHolder: the mark is the state folder's, the same after a crash, and one process's at a time.
func TestHolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, release, err := holderOf(dir)
	require.NoError(t, err)
	require.NotEmpty(t, first)
	info, err := os.Stat(filepath.Join(dir, "controller"))
	require.NoError(t, err)
	require.Zero(t, info.Mode().Perm()&0o077)
	_, _, err = holderOf(dir)
	require.Equal(t, firerunner.Conflict, firerunner.CodeOf(err), "%v", err)
	release()
	again, release, err := holderOf(dir)
	require.NoError(t, err)
	require.Equal(t, first, again)
	release()

	other, release, err := holderOf(t.TempDir())
	require.NoError(t, err)
	defer release()
	require.NotEqual(t, first, other)

	// A process that died between making the file and writing to it left none.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "controller"), nil, 0o600))
	anew, release, err := holderOf(dir)
	require.NoError(t, err)
	defer release()
	require.NotEmpty(t, anew)
}
