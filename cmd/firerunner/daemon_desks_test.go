package main

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/flintlock"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

type ledgerThatSays struct {
	firerunner.Ledger
	err error
}

func (l ledgerThatSays) VM(context.Context, string) (firerunner.LedgerVM, error) {
	return firerunner.LedgerVM{}, l.err
}

// TestDesksUnknown: a guest whose controller nobody acts for yet, or of which we cannot know, is told to call again.
func TestDesksUnknown(t *testing.T) {
	t.Parallel()
	for name, says := range map[string]error{"InTheLedger": nil, "NobodyKnows": firerunner.Errorf(firerunner.Unavailable, "away")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &desks{ledger: ledgerThatSays{err: says}, holds: func(string) bool { return true }}
			_, _, err := d.Admit(t.Context(), "vm", "token")
			require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
			_, err = d.Return(t.Context(), "vm", "session")
			require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
			require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(d.Record(t.Context(), "vm", 1, firerunner.GuestReport{})))
		})
	}
}

// TestDesks: each guest is served by the driver of its controller, and only under a lease that is surely ours; a stranger is
// told so, for good.
func TestDesks(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store, err := sqlite.Open(ctx, sqlite.Config{Path: filepath.Join(t.TempDir(), "firerunner.db"), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	hash := func(secret string) [32]byte { return sha256.Sum256([]byte(secret)) }
	driver := func(controller string) *flintlock.Driver {
		require.NoError(t, store.SaveVM(ctx, firerunner.LedgerVM{
			ID: "vm-" + controller, Driver: "flintlock@" + controller, Host: "h", Token: hash("token"), CreatedAt: time.Now(), Deadline: time.Now().Add(time.Hour),
		}))
		_, err := store.UseToken(ctx, "vm-"+controller, hash("session"), time.Now())
		require.NoError(t, err)
		d, err := flintlock.New(ctx, flintlock.Config{
			Namespace: "fr-1-" + controller, Partition: "flintlock@" + controller, Ledger: store, GuestURL: "192.0.2.1:1",
			GuestFingerprint: "sha256:" + strings.Repeat("5a", 32), Logger: slog.New(slog.DiscardHandler),
			Hosts: []flintlock.Host{{Name: "h", Endpoint: "127.0.0.1:1", TLS: flintlock.TLS{Insecure: true}}},
		})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, d.Close()) })
		return d
	}
	var lost atomic.Value
	lost.Store("")
	d := &desks{own: "a", ledger: store, holds: func(controller string) bool { return controller != lost.Load() }}
	d.add("a", driver("a"))
	d.add("b", driver("b"))
	codes := func(id string) (codes []firerunner.Code) {
		_, _, admit := d.Admit(ctx, id, "another token")
		_, back := d.Return(ctx, id, "another session")
		return append(codes, firerunner.CodeOf(admit), firerunner.CodeOf(back))
	}
	both := func(c firerunner.Code) []firerunner.Code { return []firerunner.Code{c, c} }
	require.Equal(t, both(firerunner.Unauthorized), codes("stranger"))
	require.Equal(t, both(firerunner.Unauthorized), codes("vm-b"))
	for _, id := range []string{"vm-a", "vm-b"} {
		last, err := d.Return(ctx, id, "session")
		require.NoError(t, err)
		require.Zero(t, last)
		require.NoError(t, d.Record(ctx, id, 1, firerunner.GuestReport{Kind: firerunner.ReportHello}))
	}

	lost.Store("b")
	require.Equal(t, both(firerunner.Unavailable), codes("vm-b"))
	err = d.Record(ctx, "vm-b", 2, firerunner.GuestReport{Kind: firerunner.ReportNotice, Message: "late"})
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
	reports, err := store.Reports(ctx, "vm-b", 0)
	require.NoError(t, err)
	require.Len(t, reports, 1, "who has it now is told, not we")
	require.NoError(t, d.Record(ctx, "vm-a", 2, firerunner.GuestReport{Kind: firerunner.ReportNotice, Message: "our own"}))
	require.Equal(t, both(firerunner.Unauthorized), codes("stranger"))

	d.remove("b")
	lost.Store("")
	require.Equal(t, both(firerunner.Unavailable), codes("vm-b"), "its own process is on its way")
	_, open := <-d.Orders("vm-b")
	require.False(t, open)
	require.NoError(t, store.ForgetVM(ctx, "vm-b"))
	require.Equal(t, both(firerunner.Unauthorized), codes("vm-b"), "nobody knows it any more")
	_, _, err = d.Admit(ctx, "vm-a", "token")
	require.Equal(t, firerunner.Conflict, firerunner.CodeOf(err), "its token was used")
}
