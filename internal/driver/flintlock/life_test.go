package flintlock

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

// TestGhost: a guest that has died is booted again by its host, on its old disk. It is told to go, reported, and removed.
func TestGhost(t *testing.T) {
	h := newHouse(t, 1, func(c *Config) { c.HeartbeatTimeout = time.Minute })
	h.create("ghost", "h0")
	h.until("ghost", firerunner.ReportStarted)
	h.kill(h.hosts[0], "ghost")
	h.hosts[0].Resync()
	require.Contains(t, h.until("ghost", firerunner.ReportError).Message, "booted a second time")
	require.Contains(t, h.until("ghost", firerunner.ReportExited).Message, "booted a second time")
	h.gone("ghost") // nobody has called Destroy
	require.Equal(t, 1, h.hosts[0].Counters().GhostBoots)
	told := h.told("ghost")
	require.Len(t, told, 2)
	require.NoError(t, told[0])
	require.Equal(t, firerunner.Conflict, firerunner.CodeOf(told[1]))
	vm, ok := h.listed("ghost")
	require.True(t, ok, "it is listed until it is destroyed")
	require.False(t, vm.Alive)
	h.destroyed("ghost")
}

// TestPromptEnd: once gitlab-runner has ended, the microVM goes without anybody's call, so that there is no ghost.
func TestPromptEnd(t *testing.T) {
	h := newHouse(t, 1)
	h.create("prompt", "h0")
	h.until("prompt", firerunner.ReportStarted)
	require.NoError(t, h.current().Order(h.ctx, "prompt", firerunner.OrderFinish))
	h.until("prompt", firerunner.ReportExited)
	h.gone("prompt")
	require.Zero(t, h.hosts[0].Counters().GhostBoots)
	h.destroyed("prompt")
}

// TestNotMade: a host that cannot make one is given up at the first failure, long before it says FAILED.
func TestNotMade(t *testing.T) {
	h := newHouse(t, 1)
	_, err := h.hosts[0].AddFault(flintlocktest.Fault{Action: flintlocktest.FaultPullError, Image: "registry.example.com/firerunner/root"})
	require.NoError(t, err)
	vm := h.create("pending", "h0")
	require.True(t, vm.Alive)
	exited := h.until("pending", firerunner.ReportExited)
	require.Contains(t, exited.Message, "host h0 could not make it")
	h.gone("pending")
	require.Empty(t, h.told("pending"))
	h.destroyed("pending")
}

// TestCreatedIsNotReady: the host says CREATED of a machine that never ran.
func TestCreatedIsNotReady(t *testing.T) {
	h := newHouse(t, 1)
	_, err := h.hosts[0].AddFault(flintlocktest.Fault{Action: flintlocktest.FaultDeadBoot})
	require.NoError(t, err)
	h.create("dead", "h0")
	require.NoError(t, h.hosts[0].Wait(h.ctx, func(vms []flintlocktest.VM) bool { return len(vms) == 1 && vms[0].State == "CREATED" }))
	reports, err := h.ledger.Reports(h.ctx, "dead", 0)
	require.NoError(t, err)
	require.Empty(t, reports, "nothing was heard of the guest, so nothing is said")
	err = h.current().Order(h.ctx, "dead", firerunner.OrderStop)
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
	h.destroyed("dead")
}

// TestSilentGuest: a guest whose signs of life stop has ended, whatever its host says.
func TestSilentGuest(t *testing.T) {
	h := newHouse(t, 1, func(c *Config) { c.HeartbeatTimeout = 300 * time.Millisecond })
	h.guests(func(ctx context.Context, g *flintlocktest.Guest) {
		if _, err := h.admit(ctx, g); err == nil {
			<-ctx.Done()
		}
	})
	h.create("silent", "h0")
	require.Contains(t, h.until("silent", firerunner.ReportExited).Message, "not been heard of")
	h.gone("silent")
	h.destroyed("silent")
}

// TestGoneFromHost: somebody else has removed it.
func TestGoneFromHost(t *testing.T) {
	h := newHouse(t, 1, func(c *Config) { c.HeartbeatTimeout = time.Minute })
	h.create("taken", "h0")
	h.until("taken", firerunner.ReportStarted)
	require.True(t, h.hosts[0].RemoveRecord(named(h.hosts[0].VMs(), "taken")[0].UID))
	require.Contains(t, h.until("taken", firerunner.ReportExited).Message, "no longer has it")
	h.destroyed("taken")
}

// TestJudge are the states that a fake host does not come into by itself.
func TestJudge(t *testing.T) {
	h := newHouse(t, 1, func(c *Config) { c.LookEvery, c.HeartbeatTimeout = time.Hour, time.Hour })
	h.guests(func(ctx context.Context, _ *flintlocktest.Guest) { <-ctx.Done() })
	d := h.current()
	host, err := d.host("h0")
	require.NoError(t, err)
	for id, c := range map[string]struct {
		state types.MicroVMStatus_MicroVMState
		says  string
	}{
		"failed":   {types.MicroVMStatus_FAILED, "has given up"},
		"deleting": {types.MicroVMStatus_DELETING, "not by FireRunner"},
	} {
		h.create(id, "h0")
		vm, _ := d.vms.get(id)
		told := named(h.hosts[0].VMs(), id)[0].Told
		told.Status.State = c.state
		require.True(t, d.judge(h.ctx, host, vm, vm.know(), []*types.MicroVM{told}))
		require.Contains(t, h.until(id, firerunner.ReportExited).Message, c.says)
		h.destroyed(id)
	}
}

// TestDeadlineAfterCrash: the deadline passes while no daemon runs, or just before the next one comes.
func TestDeadlineAfterCrash(t *testing.T) {
	h := newHouse(t, 1)
	spec := h.spec("late", "h0")
	spec.Deadline = time.Now().Add(500 * time.Millisecond)
	_, err := h.current().Create(h.ctx, spec)
	require.NoError(t, err)
	h.until("late", firerunner.ReportStarted)
	require.NoError(t, h.current().Close())
	require.NotEmpty(t, h.hosts[0].VMs())
	h.open()
	require.Contains(t, h.until("late", firerunner.ReportExited).Message, "deadline")
	require.False(t, time.Now().Before(spec.Deadline))
	h.gone("late")
	h.destroyed("late")
}

// TestLedgerFails: an end that the ledger does not take is written down later, and nothing is lost meanwhile.
func TestLedgerFails(t *testing.T) {
	h := newHouse(t, 1)
	h.create("kept", "h0")
	h.until("kept", firerunner.ReportStarted)
	broken := firerunner.Errorf(firerunner.Unavailable, "the disk is full")
	h.ledger.breaks(func(op, _ string) error {
		if op == "report" {
			return broken
		}
		return nil
	})
	err := h.current().Destroy(h.ctx, "kept")
	require.ErrorIs(t, err, broken)
	require.Len(t, named(h.hosts[0].VMs(), "kept"), 1, "nothing is deleted whose end is not written down")
	vm, ok := h.listed("kept")
	require.True(t, ok)
	require.False(t, vm.Alive)
	h.ledger.breaks(nil)
	require.Equal(t, "destroyed", h.until("kept", firerunner.ReportExited).Message)
	h.gone("kept")

	h.ledger.breaks(func(op, _ string) error {
		if op == "forget" {
			return broken
		}
		return nil
	})
	require.ErrorIs(t, h.current().Destroy(h.ctx, "kept"), broken)
	_, ok = h.listed("kept")
	require.True(t, ok, "what could not be forgotten is listed")
	h.ledger.breaks(nil)
	h.destroyed("kept")
}

// TestStuckDelete: a host that does not get on with deleting is waited for, and then named.
func TestStuckDelete(t *testing.T) {
	h := newHouse(t, 0, func(c *Config) { c.DestroyTimeout = 700 * time.Millisecond })
	h.addHost(flintlocktest.Config{RetryDelay: 50 * time.Millisecond}, Host{Name: "slow", TLS: TLS{Insecure: true}})
	require.NoError(t, h.current().SetHosts(h.config.Hosts))
	h.create("once", "slow")
	_, err := h.hosts[0].AddFault(flintlocktest.Fault{Action: flintlocktest.FaultStuckDelete, Name: "once", Count: 2})
	require.NoError(t, err)
	h.destroyed("once")

	h.create("long", "slow")
	h.until("long", firerunner.ReportStarted)
	_, err = h.hosts[0].AddFault(flintlocktest.Fault{Action: flintlocktest.FaultStuckDelete, Name: "long"})
	require.NoError(t, err)
	err = h.current().Destroy(h.ctx, "long")
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(err))
	require.ErrorContains(t, err, "host slow")
	require.Contains(t, firerunner.HintOf(err), "flintlockd on slow")
	vm, ok := h.listed("long")
	require.True(t, ok)
	require.False(t, vm.Alive)
	h.hosts[0].ClearFaults()
	h.gone("long") // although nobody has called Destroy again
	h.destroyed("long")
}

// TestPoisonedHost: what somebody else did to a host makes its lists fail. What we have there can still be removed.
func TestPoisonedHost(t *testing.T) {
	h := newHouse(t, 1)
	h.create("before", "h0")
	h.until("before", firerunner.ReportStarted)
	_, err := h.hosts[0].AddFault(flintlocktest.Fault{
		Action: flintlocktest.FaultError, Method: "ListMicroVMs", Code: codes.Unknown, Message: "failed to list: some record",
	})
	require.NoError(t, err)
	err = h.current().ProbeHost(h.ctx, "h0")
	require.Equal(t, firerunner.Conflict, firerunner.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, "some record")
	_, err = h.current().Create(h.ctx, h.spec("after", "h0"))
	require.Equal(t, firerunner.Conflict, firerunner.CodeOf(err), "%v", err)
	require.Empty(t, h.leftovers("after"))
	h.destroyed("before")
}

func TestConsole(t *testing.T) {
	h := newHouse(t, 1, func(c *Config) { c.ConsoleBytes = 40 })
	h.create("loud", "h0")
	h.until("loud", firerunner.ReportStarted)
	h.current().Print("loud", []byte("0123456789012345678901234567890123456789the end"))
	h.current().Print("nobody", []byte("x"))
	r, err := h.current().Console(h.ctx, "loud")
	require.NoError(t, err)
	text, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "I am up\n0123456789012345678901\n[firerunner: 15 bytes of console output are dropped here]\n789the end", string(text))
	_, err = h.current().Console(h.ctx, "nobody")
	require.Equal(t, firerunner.NotFound, firerunner.CodeOf(err))
}
