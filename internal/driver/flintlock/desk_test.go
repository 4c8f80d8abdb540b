package flintlock

import (
	"bytes"
	"context"
	"crypto/sha256"
	"log/slog"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/flintlocktest"
)

// passive keeps guests from calling, and tells the token that each would call with.
func (h *house) passive() (token func(id string) firerunner.Secret) {
	h.guests(func(ctx context.Context, _ *flintlocktest.Guest) { <-ctx.Done() })
	return func(id string) firerunner.Secret {
		h.Helper()
		for _, srv := range h.hosts {
			for _, vm := range named(srv.VMs(), id) {
				return firerunner.Secret(story(&flintlocktest.Guest{Machine: flintlocktest.Machine{Metadata: vm.Metadata}}).Token)
			}
		}
		h.Fatal("no such microVM")
		return ""
	}
}

func TestDesk(t *testing.T) {
	h := newHouse(t, 1)
	token := h.passive()
	d := h.current()
	h.create("guest", "h0")
	good := token("guest")

	for name, c := range map[string]struct {
		id    string
		token firerunner.Secret
	}{
		"no such microVM": {"nobody", good}, "another token": {"guest", "x"}, "no token": {"guest", ""}, "nothing": {"", ""},
	} {
		_, _, err := d.Admit(h.ctx, c.id, c.token)
		require.Equal(t, firerunner.Unauthorized, firerunner.CodeOf(err), name)
		_, err = d.Return(h.ctx, c.id, c.token)
		require.Equal(t, firerunner.Unauthorized, firerunner.CodeOf(err), name)
	}
	err := d.Record(h.ctx, "guest", 1, firerunner.GuestReport{Kind: firerunner.ReportHello})
	require.Equal(t, firerunner.NotFound, firerunner.CodeOf(err), "nobody was let in")
	_, err = d.Return(h.ctx, "guest", good)
	require.Equal(t, firerunner.Unauthorized, firerunner.CodeOf(err), "a token is no session")

	start, session, err := d.Admit(h.ctx, "guest", good)
	require.NoError(t, err)
	require.Equal(t, "glrt-secret", start.Token.Reveal())
	vm, _ := d.vms.get("guest")
	require.Nil(t, vm.start, "the credential is kept no longer than needed")
	require.Equal(t, sha256.Sum256([]byte(session.Reveal())), h.ledger.row("guest").Session, "only its hash is kept")

	for name, c := range map[string]struct {
		number int64
		kind   firerunner.ReportKind
	}{
		"the driver's word": {1, firerunner.ReportExited}, "no word": {1, "dance"}, "no number": {0, firerunner.ReportHello},
		"a negative one": {-1, firerunner.ReportHello},
	} {
		err := d.Record(h.ctx, "guest", c.number, firerunner.GuestReport{Kind: c.kind})
		require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err), name)
	}
	for range 2 { // the second time it is known
		require.NoError(t, d.Record(h.ctx, "guest", 1, firerunner.GuestReport{Kind: firerunner.ReportNotice, Message: "a\x1b[31mb\n"}))
	}
	last, err := d.Return(h.ctx, "guest", session)
	require.NoError(t, err)
	require.Equal(t, int64(1), last)
	require.Equal(t, "a[31mb ", h.until("guest", firerunner.ReportNotice).Message)
	reports, err := h.ledger.Reports(h.ctx, "guest", 0)
	require.NoError(t, err)
	require.Len(t, reports, 1)

	require.NoError(t, d.Destroy(h.ctx, "guest"))
	_, err = d.Return(h.ctx, "guest", session)
	require.Equal(t, firerunner.Unauthorized, firerunner.CodeOf(err))
	_, open := <-d.Orders("guest")
	require.False(t, open)
}

// TestAdmitAtOnce: of any number of calls with one token, one gets the credential, and the microVM goes.
func TestAdmitAtOnce(t *testing.T) {
	h := newHouse(t, 1)
	token := h.passive()
	h.create("guest", "h0")
	good := token("guest")
	var all sync.WaitGroup
	codes := make([]firerunner.Code, 8)
	for i := range codes {
		all.Go(func() {
			_, _, err := h.current().Admit(h.ctx, "guest", good)
			codes[i] = firerunner.CodeOf(err)
		})
	}
	all.Wait()
	won := 0
	for _, c := range codes {
		if c == "" {
			won++
		} else {
			require.Equal(t, firerunner.Conflict, c)
		}
	}
	require.LessOrEqual(t, won, 1)
	h.until("guest", firerunner.ReportExited)
	h.destroyed("guest")
}

// TestAdmitEnded: a guest that calls after its microVM was ended gets nothing.
func TestAdmitEnded(t *testing.T) {
	h := newHouse(t, 1)
	token := h.passive()
	h.create("guest", "h0")
	good := token("guest")
	vm, _ := h.current().vms.get("guest")
	require.NoError(t, h.current().finish(h.ctx, vm, "enough"))
	_, _, err := h.current().Admit(h.ctx, "guest", good)
	require.Equal(t, firerunner.Conflict, firerunner.CodeOf(err))
	h.destroyed("guest")
}

// TestAdmitLedgerFails: who cannot be written down is not let in, and may try again.
func TestAdmitLedgerFails(t *testing.T) {
	h := newHouse(t, 1)
	token := h.passive()
	h.create("guest", "h0")
	good := token("guest")
	h.ledger.breaks(func(op, _ string) error {
		if op == "use" {
			return firerunner.Errorf(firerunner.Unavailable, "busy")
		}
		return nil
	})
	_, _, err := h.current().Admit(h.ctx, "guest", good)
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
	h.ledger.breaks(nil)
	_, _, err = h.current().Admit(h.ctx, "guest", good)
	require.NoError(t, err)
}

// TestOrders: an order that no connection has taken goes to the next one, whose predecessor is closed.
func TestOrders(t *testing.T) {
	h := newHouse(t, 1)
	token := h.passive()
	d := h.current()
	h.create("guest", "h0")
	_, _, err := d.Admit(h.ctx, "guest", token("guest"))
	require.NoError(t, err)
	first := d.Orders("guest")
	require.NoError(t, d.Order(h.ctx, "guest", firerunner.OrderFinish))
	second := d.Orders("guest")
	_, open := <-first
	require.False(t, open)
	require.Equal(t, firerunner.OrderFinish, <-second)
	for range ordersKept {
		require.NoError(t, d.Order(h.ctx, "guest", firerunner.OrderStop))
	}
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(d.Order(h.ctx, "guest", firerunner.OrderStop)), "nobody takes them")
}

// TestNoSecrets: no log line, error or row has a token in it.
func TestNoSecrets(t *testing.T) {
	var mu sync.Mutex
	var log bytes.Buffer
	h := newHouse(t, 1, func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(p)
		}), &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	token := h.passive()
	h.create("guest", "h0")
	good := token("guest")
	_, session, err := h.current().Admit(h.ctx, "guest", good)
	require.NoError(t, err)
	_, _, again := h.current().Admit(h.ctx, "guest", good)
	_, back := h.current().Return(h.ctx, "guest", session+"x")
	h.until("guest", firerunner.ReportExited)
	h.destroyed("guest")
	mu.Lock()
	defer mu.Unlock()
	for _, secret := range []string{good.Reveal(), session.Reveal(), "glrt-secret"} {
		require.NotContains(t, log.String(), secret)
		require.NotContains(t, again.Error()+back.Error(), secret)
	}
	require.Contains(t, log.String(), "a microVM has ended")
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
