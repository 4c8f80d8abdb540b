package sqlite_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/sqlite"
	"github.com/firerunner/firerunner/internal/store/storetest"
)

func TestLedger(t *testing.T) {
	t.Parallel()
	storetest.ExerciseLedger(t, func(t *testing.T) firerunner.Ledger { return open(t, sqlite.Config{}) })
}

// TestLedgerInvariants: the database keeps them too, whatever writes.
func TestLedgerInvariants(t *testing.T) {
	t.Parallel()
	store := open(t, sqlite.Config{})
	ctx := t.Context()
	require.NoError(t, store.SaveVM(ctx, firerunner.LedgerVM{ID: "a"}))
	exec1(t, store.DB(), `UPDATE vms SET used_at = 7, number = 3, seq = 3, exited = 1`)
	for _, statement := range []string{
		`UPDATE vms SET used_at = 0`, `UPDATE vms SET session = x'01'`, `UPDATE vms SET exited = 0`,
		`UPDATE vms SET seq = 4`, `UPDATE vms SET number = 2`,
	} {
		_, err := store.DB().ExecContext(ctx, statement)
		require.ErrorContains(t, err, "conflict: ", statement)
	}
}

// TestLedgerAfterCrash: what was answered is there after the file is opened again.
func TestLedgerAfterCrash(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	first, err := sqlite.Open(t.Context(), sqlite.Config{Path: path, Logger: discard()})
	require.NoError(t, err)
	ctx := t.Context()
	require.NoError(t, first.SaveVM(ctx, firerunner.LedgerVM{ID: "a", Driver: "flintlock"}))
	won, err := first.UseToken(ctx, "a", [32]byte{1}, noon)
	require.NoError(t, err)
	require.True(t, won)
	_, err = first.AddReport(ctx, "a", 1, firerunner.GuestReport{Kind: firerunner.ReportHello})
	require.NoError(t, err)
	require.NoError(t, first.Close())

	again := open(t, sqlite.Config{Path: path})
	won, err = again.UseToken(ctx, "a", [32]byte{2}, noon)
	require.NoError(t, err)
	require.False(t, won)
	reports, err := again.Reports(ctx, "a", 0)
	require.NoError(t, err)
	require.Len(t, reports, 1)
}
