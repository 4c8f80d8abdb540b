package flintlock

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/flintlocktest"
)

// gated is an obedient guest that waits before it calls.
func (h *house) gated() (open func()) {
	gate := make(chan struct{})
	h.guests(func(ctx context.Context, g *flintlocktest.Guest) {
		select {
		case <-gate:
			h.obedient(ctx, g)
		case <-ctx.Done():
		}
	})
	return func() { close(gate) }
}

// TestCreate/AfterCrash: the daemon dies in the middle of Create, or right after it. The credential is gone with it.
func TestCreateAfterCrash(t *testing.T) {
	for name, crash := range map[string]func(h *house){
		"uid not saved": func(h *house) {
			saves := 0
			h.ledger.breaks(func(op, _ string) error {
				if op == "save" {
					if saves++; saves == 2 { // the first is before the host is asked, the second has the uid
						return firerunner.Errorf(firerunner.Unavailable, "killed")
					}
				}
				return nil
			})
			_, err := h.current().Create(h.ctx, h.spec("cut", "h0"))
			require.Equal(h, firerunner.Unavailable, firerunner.CodeOf(err))
			require.Empty(h, h.ledger.row("cut").Ref)
			h.ledger.breaks(nil)
		},
		"uid saved": func(h *house) {
			h.create("cut", "h0")
			require.NotEmpty(h, h.ledger.row("cut").Ref)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Run("created again", func(t *testing.T) {
				h := newHouse(t, 1)
				open := h.gated()
				crash(h)
				uid := named(h.hosts[0].VMs(), "cut")[0].UID
				h.restart()
				vm, ok := h.listed("cut")
				require.True(t, ok)
				require.False(t, vm.Alive, "nobody has a start for its guest")
				created := h.create("cut", "h0")
				require.True(t, created.Alive)
				require.True(t, created.CreatedAt.Equal(vm.CreatedAt))
				there := named(h.hosts[0].VMs(), "cut")
				require.Len(t, there, 1, "it was made twice")
				require.Equal(t, uid, there[0].UID)
				require.Equal(t, uid, h.ledger.row("cut").Ref)
				open()
				h.until("cut", firerunner.ReportStarted)
				h.destroyed("cut")
			})
			t.Run("followed", func(t *testing.T) {
				h := newHouse(t, 1)
				h.gated()
				crash(h)
				h.restart()
				require.Contains(t, h.until("cut", firerunner.ReportExited).Message, "started anew")
				h.gone("cut")
				h.destroyed("cut")
			})
			t.Run("destroyed", func(t *testing.T) {
				h := newHouse(t, 1)
				h.gated()
				crash(h)
				h.restart()
				h.destroyed("cut")
			})
			t.Run("called", func(t *testing.T) {
				h := newHouse(t, 1)
				open := h.gated()
				crash(h)
				h.restart()
				open()
				require.Eventually(t, func() bool { return len(h.told("cut")) > 0 }, within, 5*time.Millisecond)
				require.Contains(t, h.until("cut", firerunner.ReportExited).Message, "started anew")
				require.Equal(t, firerunner.NotFound, firerunner.CodeOf(h.told("cut")[0]))
				again := h.create("cut", "h0")
				require.False(t, again.Alive)
				h.gone("cut")
				h.destroyed("cut")
			})
		})
	}
}

// TestCreateAfterCrashUnsent: the daemon dies between writing down that one is meant and asking the host.
func TestCreateAfterCrashUnsent(t *testing.T) {
	h := newHouse(t, 1)
	_, err := h.hosts[0].AddFault(flintlocktest.Fault{
		Action: flintlocktest.FaultError, Method: "CreateMicroVM", Code: codes.Unavailable, Message: "cut", Count: 1,
	})
	require.NoError(t, err)
	_, err = h.current().Create(h.ctx, h.spec("cut", "h0"))
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
	before := h.ledger.row("cut")
	require.NotZero(t, before.Token, "the answer may still have been lost: it is looked for again")
	h.restart()
	require.True(t, h.create("cut", "h0").Alive)
	require.NotEqual(t, before.Token, h.ledger.row("cut").Token, "the token of a lost request is not good for another")
	h.until("cut", firerunner.ReportStarted)
	h.destroyed("cut")
}

// TestAmbiguous: the microVM was made and the answer lost. It is found again and not made twice.
func TestAmbiguous(t *testing.T) {
	for name, fault := range map[string]flintlocktest.Fault{
		"an error":       {Action: flintlocktest.FaultErrorAfter, Code: codes.Unavailable},
		"their error":    {Action: flintlocktest.FaultErrorAfter, Code: codes.Unknown, Message: "something went wrong"},
		"a cut line":     {Action: flintlocktest.FaultResetAfter},
		"no answer":      {Action: flintlocktest.FaultDropAfter},
		"a late answer":  {Action: flintlocktest.FaultDelayAnswer, Delay: 2 * time.Second},
		"a hurried call": {Action: flintlocktest.FaultDelayAnswer, Delay: 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, 1, func(c *Config) { c.CallTimeout = 300 * time.Millisecond })
			fault.Method, fault.Count = "CreateMicroVM", 1
			_, err := h.hosts[0].AddFault(fault)
			require.NoError(t, err)
			require.True(t, h.create("twice", "h0").Alive)
			require.Equal(t, 1, h.hosts[0].Counters().Creates)
			h.until("twice", firerunner.ReportStarted)
			h.destroyed("twice")
		})
	}
}

// TestCallerGone: the one who asked for a microVM is cancelled while the host makes it.
func TestCallerGone(t *testing.T) {
	h := newHouse(t, 1)
	_, err := h.hosts[0].AddFault(flintlocktest.Fault{
		Action: flintlocktest.FaultDelayAnswer, Delay: time.Second, Method: "CreateMicroVM", Count: 1,
	})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(h.ctx, 200*time.Millisecond)
	defer cancel()
	vm, err := h.current().Create(ctx, h.spec("left", "h0"))
	require.NoError(t, err, "it was found on the host")
	require.True(t, vm.Alive)
	h.until("left", firerunner.ReportStarted)
	h.destroyed("left")
}

// TestDuplicates: microVMs of our name that we have no uid of are deleted, ours is kept.
func TestDuplicates(t *testing.T) {
	h := newHouse(t, 1)
	d := h.current()
	host, err := d.host("h0")
	require.NoError(t, err)
	h.guests(func(ctx context.Context, g *flintlocktest.Guest) {
		if story(g).Token == "strange" {
			_, _ = h.admit(ctx, g)
			return
		}
		h.obedient(ctx, g)
	})
	strange, err := h.config.withDefaults().request(host.Host, h.spec("many", "h0"), "strange")
	require.NoError(t, err)
	for range 2 { // before ours
		_, err = host.create(h.ctx, strange)
		require.NoError(t, err)
	}
	require.Len(t, named(h.hosts[0].VMs(), "many"), 2)
	h.create("many", "h0")
	h.until("many", firerunner.ReportStarted)
	ref := h.ledger.row("many").Ref
	_, err = host.create(h.ctx, strange) // and after it
	require.NoError(t, err)
	host.look()
	ctx, cancel := context.WithTimeout(h.ctx, within)
	defer cancel()
	require.NoError(t, h.hosts[0].Wait(ctx, func(vms []flintlocktest.VM) bool {
		there := named(vms, "many")
		return len(there) == 1 && there[0].UID == ref
	}))
	vm, ok := h.listed("many")
	require.True(t, ok)
	require.True(t, vm.Alive, "a stranger of its name did it harm")
	h.destroyed("many")
}

// TestOrphans: what has our namespace and no record is listed and removed, what has another is not touched.
func TestOrphans(t *testing.T) {
	h := newHouse(t, 2)
	host, err := h.current().host("h1")
	require.NoError(t, err)
	orphan, err := h.config.withDefaults().request(host.Host, h.spec("orphan", "h1"), "x")
	require.NoError(t, err)
	_, err = host.create(h.ctx, orphan)
	require.NoError(t, err)
	other := h.config.withDefaults()
	other.Namespace = "fr-ffffffffffff"
	theirs, err := other.request(host.Host, h.spec("theirs", "h1"), "x")
	require.NoError(t, err)
	_, err = host.create(h.ctx, theirs)
	require.NoError(t, err)

	vms, err := h.current().List(h.ctx)
	require.NoError(t, err)
	require.Equal(t, []firerunner.MicroVM{{ID: "orphan", Host: "h1"}}, vms)
	h.hosts[1].StopDaemon()
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(h.current().Destroy(h.ctx, "orphan")), "it was seen on a host that does not answer")
	require.NoError(t, h.current().Destroy(h.ctx, "unknown"), "nobody has ever seen it")
	require.NoError(t, h.hosts[1].StartDaemon())
	require.Eventually(t, func() bool { return h.current().ProbeHost(h.ctx, "h1") == nil }, within, 20*time.Millisecond)
	h.destroyed("orphan")
	require.NoError(t, h.current().Destroy(h.ctx, "theirs"))
	require.Len(t, named(h.hosts[1].VMs(), "theirs"), 1)
}
