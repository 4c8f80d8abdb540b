package flintlock

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/guest"
)

// other is the driver of another controller on the same ledger and hosts: it has another part of the ledger, and another
// namespace.
func (h *house) other(namespace, partition string) *Driver {
	h.Helper()
	cfg := h.config
	cfg.Namespace, cfg.Partition = namespace, partition
	d, err := New(h.ctx, cfg)
	require.NoError(h, err)
	h.Cleanup(func() { require.NoError(h, d.Close()) })
	return d
}

// TestPartitions: two controllers' drivers on one ledger and host do not see each other's microVMs, nor let each other's
// guests in, nor destroy anything for each other; and whoever stands in for one sees exactly that one's.
func TestPartitions(t *testing.T) {
	h := newHouse(t, 1, func(c *Config) { c.Namespace, c.Partition = "fr-0123456789ab-a", "flintlock@a" })
	token := h.passive()
	a, b := h.current(), h.other("fr-0123456789ab-b", "flintlock@b")
	h.create("va", "h0")
	_, err := b.Create(h.ctx, h.spec("vb", "h0"))
	require.NoError(t, err)
	ids := func(d *Driver) (ids []string) {
		all, err := d.List(h.ctx)
		require.NoError(t, err)
		for _, vm := range all {
			ids = append(ids, vm.ID)
		}
		return ids
	}
	check := func(a, b *Driver) {
		require.Equal(t, []string{"va"}, ids(a))
		require.Equal(t, []string{"vb"}, ids(b))
		require.True(t, a.Knows("va") && b.Knows("vb"))
		require.False(t, a.Knows("vb") || b.Knows("va"))
	}
	check(a, b)
	require.Equal(t, "flintlock@a", h.ledger.row("va").Driver)
	require.Equal(t, "flintlock@b", h.ledger.row("vb").Driver)

	_, _, err = b.Admit(h.ctx, "va", token("va"))
	require.Equal(t, firerunner.Unauthorized, firerunner.CodeOf(err))
	require.True(t, h.ledger.row("va").UsedAt.IsZero(), "its token is good as before")
	require.NoError(t, b.Destroy(h.ctx, "va"), "destroying what is not there is no error")
	require.Len(t, named(h.hosts[0].VMs(), "va"), 1)
	require.True(t, h.ledger.has("va"))
	_, session, err := a.Admit(h.ctx, "va", token("va"))
	require.NoError(t, err)
	_, err = b.Return(h.ctx, "va", session)
	require.Equal(t, firerunner.Unauthorized, firerunner.CodeOf(err))

	// a dies, and another process stands in for it beside b.
	require.NoError(t, a.Close())
	standIn := h.other("fr-0123456789ab-a", "flintlock@a")
	check(standIn, b)
	last, err := standIn.Return(h.ctx, "va", session)
	require.NoError(t, err)
	require.Zero(t, last)
	require.NoError(t, standIn.Destroy(h.ctx, "va"))
	require.Empty(t, named(h.hosts[0].VMs(), "va"))
	require.Len(t, named(h.hosts[0].VMs(), "vb"), 1)
	require.NoError(t, b.Destroy(h.ctx, "vb"))
}

// TestCloseLetsGuestsGo: a guest of a driver that ends loses its connection, so that it calls whoever acts for it now; also
// one that was on its way in at that moment.
func TestCloseLetsGuestsGo(t *testing.T) {
	h := newHouse(t, 1)
	token := h.passive()
	d := h.current()
	h.create("guest", "h0")
	_, session, err := d.Admit(h.ctx, "guest", token("guest"))
	require.NoError(t, err)
	require.NoError(t, d.Record(h.ctx, "guest", 1, firerunner.GuestReport{Kind: firerunner.ReportHello}))
	ended := func(orders <-chan firerunner.GuestOrder) {
		h.Helper()
		select {
		case _, open := <-orders:
			require.False(t, open)
		case <-time.After(within):
			t.Fatal("the guest stays with a driver that has ended")
		}
	}
	orders := d.Orders("guest")
	require.NoError(t, d.Close())
	ended(orders)
	ended(d.Orders("guest"))

	next := h.open()
	last, err := next.Return(h.ctx, "guest", session)
	require.NoError(t, err)
	require.Equal(t, int64(1), last, "nothing is said twice, nothing is lost")
	orders = next.Orders("guest")
	require.NoError(t, next.Order(h.ctx, "guest", firerunner.OrderFinish))
	require.Equal(t, firerunner.OrderFinish, <-orders)
	h.destroyed("guest")
}

// TestGuestReadsOthers: a guest is told of as many other doors as it takes.
func TestGuestReadsOthers(t *testing.T) {
	t.Parallel()
	h := &house{T: t}
	sum := strings.Repeat("5a", 32)
	for count, want := range map[int]int{0: 0, 1: 1, mostOthers: mostOthers, mostOthers + 5: mostOthers} {
		cfg := Config{Namespace: "n", GuestURL: "192.0.2.1:8443", GuestFingerprint: "sha256:" + sum, Others: func() (doors []Door) {
			for i := range count {
				doors = append(doors, Door{Endpoint: fmt.Sprintf("192.0.2.%d:8443", 2+i), Fingerprint: "sha256:" + sum})
			}
			return doors
		}}
		request, err := cfg.request(Host{Name: "h0"}, h.spec("vm1", "h0"), "one-time")
		require.NoError(t, err)
		read, err := guest.DecodeMetadata([]byte(decoded(t, request, firerunnerKey)))
		require.NoError(t, err)
		require.Len(t, read.Others, want)
		for i, door := range read.Others {
			require.Equal(t, fmt.Sprintf("192.0.2.%d:8443", 2+i), door.Endpoint)
			require.Equal(t, read.Fingerprint, door.Fingerprint)
		}
	}
}
