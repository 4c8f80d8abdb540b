package flintlocktest_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/proto/flintlock/services/microvm/v1alpha1"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

// TestNoKernel: one request kills the daemon, and kills it again at every start, until somebody removes the record.
func TestNoKernel(t *testing.T) {
	srv := start(t, flintlocktest.Config{RestartAfter: time.Millisecond})
	c := dial(t, srv)
	good := create(t, c, goodSpec("good"))
	_, err := srv.WaitVM(soon(t), good, created)
	require.NoError(t, err)
	spec := goodSpec("vm")
	spec.Kernel = nil
	// The answer may or may not come before the daemon is gone.
	_, _ = c.CreateMicroVM(soon(t), &v1alpha1.CreateMicroVMRequest{Microvm: spec})
	require.NoError(t, srv.Wait(soon(t), func([]flintlocktest.VM) bool { return srv.Counters().Crashes >= 3 }))
	require.Contains(t, srv.Counters().LastCrash, "no kernel")
	vms := srv.VMs()
	require.Len(t, vms, 2)
	require.True(t, vms[0].Running, "machines go on")
	require.True(t, srv.RemoveRecord(vms[1].UID))
	require.False(t, srv.RemoveRecord(vms[1].UID))
	require.Eventually(t, func() bool {
		_, err := c.CreateMicroVM(soon(t), &v1alpha1.CreateMicroVMRequest{Microvm: goodSpec("after")})
		return err == nil
	}, patience, 10*time.Millisecond)
}

// TestEmptyOverrides: the daemon dies in the middle of the call; nothing is stored.
func TestEmptyOverrides(t *testing.T) {
	srv := start(t, flintlocktest.Config{})
	c := dial(t, srv)
	spec := goodSpec("vm")
	spec.Interfaces[0].Overrides = &types.NetworkOverrides{}
	_, err := c.CreateMicroVM(soon(t), &v1alpha1.CreateMicroVMRequest{Microvm: spec})
	requireCode(t, codes.Unavailable, "", err)
	require.NoError(t, srv.Wait(soon(t), func([]flintlocktest.VM) bool { return !srv.Alive() }))
	require.Empty(t, srv.VMs())
	_, err = c.ListMicroVMs(soon(t), &v1alpha1.ListMicroVMsRequest{})
	requireCode(t, codes.Unavailable, "", err)

	require.NoError(t, srv.StartDaemon())
	require.NoError(t, srv.StartDaemon(), "it runs")
	create(t, dial(t, srv), goodSpec("vm"))
	require.True(t, srv.Alive())
}

// TestSlash: an id with a slash makes a record that nobody can read or delete, and every list and resync fails.
func TestSlash(t *testing.T) {
	srv := start(t, flintlocktest.Config{})
	c := dial(t, srv)
	good := create(t, c, goodSpec("good"))
	_, err := srv.WaitVM(soon(t), good, created)
	require.NoError(t, err)
	poison := create(t, c, goodSpec("a/b"))
	vm, _ := srv.VM(poison)
	require.True(t, vm.Unreadable)
	require.Equal(t, "PENDING", vm.State)
	for _, namespace := range []string{"", "firerunner", "elsewhere"} {
		_, err = c.ListMicroVMs(soon(t), &v1alpha1.ListMicroVMsRequest{Namespace: namespace})
		requireCode(t, codes.Unknown, "incorrect format", err)
	}
	stream, err := c.ListMicroVMsStream(soon(t), &v1alpha1.ListMicroVMsRequest{Namespace: "firerunner"})
	require.NoError(t, err)
	_, err = stream.Recv()
	requireCode(t, codes.Unknown, "incorrect format", err)
	_, err = c.GetMicroVM(soon(t), &v1alpha1.GetMicroVMRequest{Uid: poison})
	requireCode(t, codes.Unknown, "incorrect format", err)
	_, err = c.DeleteMicroVM(soon(t), &v1alpha1.DeleteMicroVMRequest{Uid: poison})
	requireCode(t, codes.Unknown, "incorrect format", err)

	_, err = c.GetMicroVM(soon(t), &v1alpha1.GetMicroVMRequest{Uid: good})
	require.NoError(t, err, "others can be read one by one")
	require.True(t, srv.Kill(good))
	srv.Resync()
	require.Equal(t, 1, srv.Counters().FailedResyncs)
	require.NoError(t, srv.Restart())
	require.NoError(t, srv.Wait(soon(t), func([]flintlocktest.VM) bool { return srv.Counters().FailedResyncs == 2 }))
	vm, _ = srv.VM(good)
	require.Equal(t, 1, vm.Boots, "no resync, no ghost")

	require.True(t, srv.RemoveRecord(poison))
	srv.Resync()
	_, err = srv.WaitVM(soon(t), good, func(vm flintlocktest.VM) bool { return vm.Boots == 2 })
	require.NoError(t, err)
}

// TestRestart: machines survive the daemon, and are adopted again.
func TestRestart(t *testing.T) {
	srv := start(t, flintlocktest.Config{})
	c := dial(t, srv)
	uid := create(t, c, goodSpec("vm"))
	_, err := srv.WaitVM(soon(t), uid, created)
	require.NoError(t, err)
	address := srv.Addr()
	srv.StopDaemon()
	require.False(t, srv.Alive())
	srv.Resync() // there is nobody to do it
	require.Equal(t, 1, srv.Running())
	require.NoError(t, srv.StartDaemon())
	require.Equal(t, address, srv.Addr())
	remove(t, dial(t, srv), uid)
	require.NoError(t, srv.WaitGone(soon(t), uid))
	require.Zero(t, srv.Running())
	require.Equal(t, 1, srv.Counters().Boots)
}

// TestRestartWhilePulling: what the daemon was about to do when it was killed is done by the next one.
func TestRestartWhilePulling(t *testing.T) {
	srv := start(t, flintlocktest.Config{})
	c := dial(t, srv)
	_, err := srv.AddFault(flintlocktest.Fault{Action: flintlocktest.FaultPullDelay, Delay: time.Hour, Count: 1})
	require.NoError(t, err)
	uid := create(t, c, goodSpec("vm"))
	require.NoError(t, srv.Wait(soon(t), func([]flintlocktest.VM) bool { return srv.Faults()[0].Struck == 1 }))
	require.NoError(t, srv.Restart())
	vm, err := srv.WaitVM(soon(t), uid, created)
	require.NoError(t, err)
	require.Zero(t, vm.Retry)
}

// TestPowerOff: daemon and machines are gone at once, and all come back, asked or not.
func TestPowerOff(t *testing.T) {
	srv := start(t, flintlocktest.Config{VMM: flintlocktest.Scripted{Guest: func(ctx context.Context, _ *flintlocktest.Guest) { <-ctx.Done() }}})
	c := dial(t, srv)
	uid := create(t, c, goodSpec("vm"))
	_, err := srv.WaitVM(soon(t), uid, created)
	require.NoError(t, err)
	srv.PowerOff()
	require.Zero(t, srv.Running())
	require.False(t, srv.Alive())
	require.NoError(t, srv.StartDaemon())
	vm, err := srv.WaitVM(soon(t), uid, func(vm flintlocktest.VM) bool { return vm.Boots == 2 })
	require.NoError(t, err)
	require.True(t, vm.Running)
}

// TestSharedVolumeIDs: volumes of one id share what is written to them.
func TestSharedVolumeIDs(t *testing.T) {
	layers := make(chan []flintlocktest.Disk, 1)
	srv := start(t, flintlocktest.Config{VMM: flintlocktest.Scripted{Guest: func(_ context.Context, g *flintlocktest.Guest) { layers <- g.Disks }}})
	spec := goodSpec("vm")
	spec.AdditionalVolumes = []*types.Volume{
		{Id: "root", Source: &types.VolumeSource{ContainerSource: proto.String("registry.example.com/data:1")}},
		{Id: "data", IsReadOnly: true, Source: &types.VolumeSource{ContainerSource: proto.String("registry.example.com/data:1")}},
	}
	create(t, dial(t, srv), spec)
	disks := <-layers
	require.Len(t, disks, 3)
	require.Equal(t, disks[0].Layer, disks[1].Layer)
	require.NotEqual(t, disks[0].Layer, disks[2].Layer)
	require.True(t, disks[2].ReadOnly)
}
