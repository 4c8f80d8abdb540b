package flintlocktest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/proto/flintlock/services/microvm/v1alpha1"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

func remove(t *testing.T, c v1alpha1.MicroVMClient, uid string) {
	t.Helper()
	_, err := c.DeleteMicroVM(soon(t), &v1alpha1.DeleteMicroVMRequest{Uid: uid}, grpc.WaitForReady(true))
	require.NoError(t, err)
}

// TestLifeOK: a guest reads its metadata, prints, ends; the microVM is deleted and gone.
func TestLifeOK(t *testing.T) {
	srv := start(t, flintlocktest.Config{VMM: flintlocktest.Scripted{Guest: func(_ context.Context, g *flintlocktest.Guest) {
		fmt.Fprintf(g.Console, "boot %d: %s", g.Boot, g.Metadata["firerunner"])
	}}})
	c := dial(t, srv)
	uid := create(t, c, goodSpec("vm"))
	vm, err := srv.WaitVM(soon(t), uid, func(vm flintlocktest.VM) bool { return created(vm) && ended(vm) })
	require.NoError(t, err)
	console, err := srv.Console(uid)
	require.NoError(t, err)
	require.Equal(t, "boot 1: hello from the host\n", console)
	require.FileExists(t, vm.Console)

	remove(t, c, uid)
	require.NoError(t, srv.WaitGone(soon(t), uid))
	_, err = c.GetMicroVM(soon(t), &v1alpha1.GetMicroVMRequest{Uid: uid})
	requireCode(t, codes.Unknown, "not found", err)
	_, err = c.DeleteMicroVM(soon(t), &v1alpha1.DeleteMicroVMRequest{Uid: uid})
	requireCode(t, codes.Unknown, "not found", err)
	require.NoFileExists(t, vm.Console)

	counted := srv.Counters()
	require.Equal(t, 1, counted.Creates)
	require.Equal(t, 1, counted.Boots)
	require.Equal(t, 1, counted.Gone)
	require.Equal(t, flintlocktest.Capacity{VCPUs: 2, MemoryMiB: 1024}, counted.Peak)
	calls := srv.Calls()
	require.Equal(t, "CreateMicroVM", calls[0].Method)
	require.Equal(t, "vm", calls[0].Name)
	require.Equal(t, uid, calls[0].UID)
	require.Equal(t, codes.Unknown, calls[len(calls)-1].Code)
}

// TestGhost: a machine that ended is started again at the next resync, because nobody deleted it.
func TestGhost(t *testing.T) {
	boots := make(chan int, 10)
	srv := start(t, flintlocktest.Config{
		ResyncPeriod: 20 * time.Millisecond,
		VMM: flintlocktest.Scripted{Guest: func(ctx context.Context, g *flintlocktest.Guest) {
			if boots <- g.Boot; g.Boot == 3 {
				<-ctx.Done()
			}
		}},
	})
	uid := create(t, dial(t, srv), goodSpec("vm"))
	for want := 1; want <= 3; want++ {
		require.Equal(t, want, <-boots)
	}
	vm, err := srv.WaitVM(soon(t), uid, func(vm flintlocktest.VM) bool { return vm.Boots == 3 })
	require.NoError(t, err)
	require.True(t, vm.Running)
	require.Equal(t, 2, srv.Counters().GhostBoots)
	require.Equal(t, 2, srv.Counters().Pulls, "a ghost needs nothing from a registry")

	require.True(t, srv.Kill(uid))
	require.Equal(t, 4, <-boots)
	require.False(t, srv.Kill("nobody"))
}

// TestRetry: failures are counted in the status, and after too many the state is FAILED.
func TestRetry(t *testing.T) {
	srv := start(t, flintlocktest.Config{RetryDelay: time.Millisecond, MaxRetry: 3})
	c := dial(t, srv)
	_, err := srv.AddFault(flintlocktest.Fault{Action: flintlocktest.FaultPullError, Image: "registry.example.com/kernel"})
	require.NoError(t, err)
	uid := create(t, c, goodSpec("vm"))
	vm, err := srv.WaitVM(soon(t), uid, func(vm flintlocktest.VM) bool { return vm.State == "FAILED" })
	require.NoError(t, err)
	require.Equal(t, 4, vm.Retry)
	require.Contains(t, vm.Reason, "no route to host")
	require.Equal(t, 5, srv.Faults()[0].Struck, "tried once, and again after each of four waits")

	srv.ClearFaults()
	srv.Resync()
	second := create(t, c, goodSpec("vm"))
	_, err = srv.WaitVM(soon(t), second, created)
	require.NoError(t, err)
	vm, _ = srv.VM(uid)
	require.Equal(t, "FAILED", vm.State, "it stays so")
	remove(t, c, uid)
	require.NoError(t, srv.WaitGone(soon(t), uid))
}

// TestRetryThenOK: what failed for a while is created in the end, and the count of failures is forgotten.
func TestRetryThenOK(t *testing.T) {
	fails := 2
	srv := start(t, flintlocktest.Config{VMM: flintlocktest.Scripted{StartErr: func(flintlocktest.Machine) error {
		if fails--; fails >= 0 {
			return errors.New("no")
		}
		return nil
	}}})
	uid := create(t, dial(t, srv), goodSpec("vm"))
	vm, err := srv.WaitVM(soon(t), uid, created)
	require.NoError(t, err)
	require.Zero(t, vm.Retry)
	require.Equal(t, 1, vm.Boots)
}

// TestDeleteInBackOff: a delete waits until the old back-off is over.
func TestDeleteInBackOff(t *testing.T) {
	srv := start(t, flintlocktest.Config{RetryDelay: time.Second})
	c := dial(t, srv)
	_, err := srv.AddFault(flintlocktest.Fault{Action: flintlocktest.FaultBootError, Name: "vm"})
	require.NoError(t, err)
	began := time.Now()
	uid := create(t, c, goodSpec("vm"))
	_, err = srv.WaitVM(soon(t), uid, func(vm flintlocktest.VM) bool { return vm.Retry == 1 && vm.State == "PENDING" })
	require.NoError(t, err)
	remove(t, c, uid)
	got, err := c.GetMicroVM(soon(t), &v1alpha1.GetMicroVMRequest{Uid: uid})
	require.NoError(t, err)
	require.Equal(t, types.MicroVMStatus_DELETING, got.GetMicrovm().GetStatus().GetState())
	require.NoError(t, srv.WaitGone(soon(t), uid))
	require.GreaterOrEqual(t, time.Since(began), time.Second)
}

// TestStuckDelete: it stays DELETING, with its machine running, until the next try.
func TestStuckDelete(t *testing.T) {
	srv := start(t, flintlocktest.Config{})
	c := dial(t, srv)
	_, err := srv.AddFault(flintlocktest.Fault{Action: flintlocktest.FaultStuckDelete, Name: "vm-*", Count: 2})
	require.NoError(t, err)
	uid := create(t, c, goodSpec("vm-1"))
	_, err = srv.WaitVM(soon(t), uid, created)
	require.NoError(t, err)
	remove(t, c, uid)
	vm, err := srv.WaitVM(soon(t), uid, func(vm flintlocktest.VM) bool { return vm.Retry == 1 })
	require.NoError(t, err)
	require.Equal(t, "DELETING", vm.State)
	require.NoError(t, srv.WaitGone(soon(t), uid))
	require.Equal(t, 2, srv.Faults()[0].Struck)
}

// TestSerial: while one microVM waits for a registry, all others on the host wait, deletes too.
func TestSerial(t *testing.T) {
	srv := start(t, flintlocktest.Config{})
	c := dial(t, srv)
	first := create(t, c, goodSpec("first"))
	_, err := srv.WaitVM(soon(t), first, created)
	require.NoError(t, err)
	_, err = srv.AddFault(flintlocktest.Fault{Action: flintlocktest.FaultPullDelay, Image: "slow.example.com/", Delay: 200 * time.Millisecond})
	require.NoError(t, err)
	spec := goodSpec("slow")
	spec.Kernel.Image = "slow.example.com/kernel:1"
	slow := create(t, c, spec)
	require.NoError(t, srv.Wait(soon(t), func([]flintlocktest.VM) bool { return srv.Faults()[0].Struck == 1 }))
	quick := create(t, c, goodSpec("quick"))
	remove(t, c, first)
	require.NoError(t, srv.Wait(soon(t), func(vms []flintlocktest.VM) bool {
		states := map[string]string{}
		for _, vm := range vms {
			states[vm.UID] = vm.State
		}
		if states[slow] == "CREATED" {
			return true
		}
		require.Equal(t, "PENDING", states[quick], "nobody overtakes")
		require.Equal(t, "DELETING", states[first], "nor do deletes")
		return false
	}))
	require.NoError(t, srv.WaitGone(soon(t), first))
	_, err = srv.WaitVM(soon(t), quick, created)
	require.NoError(t, err)
}

// TestImageRefs: short references are accepted and cannot be pulled.
func TestImageRefs(t *testing.T) {
	srv := start(t, flintlocktest.Config{MaxRetry: 1})
	c := dial(t, srv)
	for _, ref := range []string{"alpine", "library/alpine:3", "registry.example.com/alpine"} {
		spec := goodSpec("vm")
		spec.RootVolume.Source.ContainerSource = &ref
		_, err := srv.WaitVM(soon(t), create(t, c, spec), func(vm flintlocktest.VM) bool { return vm.State == "FAILED" })
		require.NoError(t, err)
	}
	spec := goodSpec("vm")
	spec.RootVolume, spec.Initrd = nil, &types.Initrd{Image: "registry.example.com/kernel:1"}
	vm, err := srv.WaitVM(soon(t), create(t, c, spec), func(vm flintlocktest.VM) bool { return vm.State == "FAILED" })
	require.NoError(t, err, "a spec without a root volume passes if it has an initrd")
	require.Contains(t, vm.Reason, "root volume")
}

// TestCapacity: the API accepts what the machine cannot carry.
func TestCapacity(t *testing.T) {
	srv := start(t, flintlocktest.Config{Capacity: flintlocktest.Capacity{VCPUs: 3, MemoryMiB: 4096}})
	c := dial(t, srv)
	first := create(t, c, goodSpec("first"))
	_, err := srv.WaitVM(soon(t), first, created)
	require.NoError(t, err)
	second := create(t, c, goodSpec("second"))
	_, err = srv.WaitVM(soon(t), second, func(vm flintlocktest.VM) bool { return vm.Retry > 0 })
	require.NoError(t, err)
	remove(t, c, first)
	_, err = srv.WaitVM(soon(t), second, created)
	require.NoError(t, err)
	require.Equal(t, 2, srv.Counters().Peak.VCPUs)
}
