package flintlock

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// A driver beside the daemon's lists what there is and removes what it is told to. It does not end a microVM whose guest
// is about to call the daemon, nor one whose deadline has passed: that is the daemon's to do.
func TestBesideOK(t *testing.T) {
	h := newHouse(t, 1)
	open := h.gated()
	h.create("boots", "h0")
	cfg := h.config
	cfg.Beside, cfg.GuestURL, cfg.GuestFingerprint = true, "", ""
	cfg.Now = func() time.Time { return time.Now().Add(2 * time.Hour) } // beyond its deadline
	beside, err := New(h.ctx, cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, beside.Close()) }()

	h.create("later", "h0") // it is not in the ledger as the other knows it
	vms, err := beside.List(h.ctx)
	require.NoError(t, err)
	require.Len(t, vms, 2)
	open()
	h.until("boots", firerunner.ReportStarted)
	h.until("later", firerunner.ReportStarted)
	require.False(t, h.ledger.row("boots").Exited)

	require.NoError(t, beside.Destroy(h.ctx, "boots"))
	h.gone("boots")
	require.False(t, h.ledger.has("boots"))
	require.NoError(t, h.current().Destroy(h.ctx, "boots"), "the daemon hears of it")
	h.destroyed("later")
}
