package flintlocktest_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/proto/flintlock/services/microvm/v1alpha1"
)

// TestCallFaults: whether the caller hears of it, and whether it happened, are two questions.
func TestCallFaults(t *testing.T) {
	for action, tc := range map[flintlocktest.FaultAction]struct {
		code     codes.Code
		happened bool
	}{
		flintlocktest.FaultError:       {codes.ResourceExhausted, false},
		flintlocktest.FaultErrorAfter:  {codes.ResourceExhausted, true},
		flintlocktest.FaultDelay:       {codes.DeadlineExceeded, true}, // gRPC does not stop a call that nobody waits for
		flintlocktest.FaultDelayAnswer: {codes.DeadlineExceeded, true},
		flintlocktest.FaultDrop:        {codes.DeadlineExceeded, false},
		flintlocktest.FaultDropAfter:   {codes.DeadlineExceeded, true},
		flintlocktest.FaultReset:       {codes.Unavailable, false},
		flintlocktest.FaultResetAfter:  {codes.Unavailable, true},
	} {
		t.Run(string(action), func(t *testing.T) {
			t.Parallel()
			srv := start(t, flintlocktest.Config{})
			c := dial(t, srv)
			_, err := srv.AddFault(flintlocktest.Fault{
				Action: action, Method: "CreateMicroVM", Name: "vm-*", Count: 1, Code: codes.ResourceExhausted, Message: "full", Delay: 5 * time.Second,
			})
			require.NoError(t, err)
			create(t, c, goodSpec("other"))
			limit := patience
			if tc.code == codes.DeadlineExceeded {
				limit = 500 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			_, err = c.CreateMicroVM(ctx, &v1alpha1.CreateMicroVMRequest{Microvm: goodSpec("vm-1")})
			requireCode(t, tc.code, "", err)
			require.NoError(t, srv.Wait(soon(t), func([]flintlocktest.VM) bool { return len(srv.Calls()) == 2 }))
			require.Equal(t, action, srv.Calls()[1].Fault)
			require.Equal(t, 1, srv.Faults()[0].Struck)
			require.Equal(t, tc.happened, len(srv.VMs()) == 2)
			create(t, dial(t, srv), goodSpec("vm-2"))
		})
	}
}

func TestFaultStreams(t *testing.T) {
	srv := start(t, flintlocktest.Config{})
	_, err := srv.AddFault(flintlocktest.Fault{Action: flintlocktest.FaultError, Message: "no streams today"})
	require.NoError(t, err)
	stream, err := dial(t, srv).ListMicroVMsStream(soon(t), &v1alpha1.ListMicroVMsRequest{Namespace: "x"})
	require.NoError(t, err)
	_, err = stream.Recv()
	requireCode(t, codes.Unknown, "no streams today", err)
}

func TestDeadBoot(t *testing.T) {
	srv := start(t, flintlocktest.Config{})
	id, err := srv.AddFault(flintlocktest.Fault{Action: flintlocktest.FaultDeadBoot, Skip: 1, Percent: 100})
	require.NoError(t, err)
	c := dial(t, srv)
	for n, alive := range []bool{true, false} {
		uid := create(t, c, goodSpec("vm"))
		vm, err := srv.WaitVM(soon(t), uid, func(vm flintlocktest.VM) bool { return created(vm) && vm.Running == alive })
		require.NoError(t, err, n)
		require.Equal(t, 1, vm.Boots)
	}
	srv.RemoveFault(id)
	require.Empty(t, srv.Faults())
}

func TestAddFaultErrInvalid(t *testing.T) {
	srv := start(t, flintlocktest.Config{})
	for want, f := range map[string]flintlocktest.Fault{
		"is none of": {Action: "explode"},
		"percent":    {Action: flintlocktest.FaultDrop, Percent: 101},
		"negative":   {Action: flintlocktest.FaultDrop, Count: -1},
		"name":       {Action: flintlocktest.FaultDrop, Name: "["},
	} {
		_, err := srv.AddFault(f)
		require.ErrorContains(t, err, want)
	}
}

func TestStartErr(t *testing.T) {
	_, err := flintlocktest.Start(flintlocktest.Config{})
	require.ErrorContains(t, err, "Dir")
	srv := start(t, flintlocktest.Config{})
	_, err = flintlocktest.Start(flintlocktest.Config{Dir: t.TempDir(), Addr: srv.Addr()})
	require.ErrorContains(t, err, "in use")
	require.NoError(t, srv.Close())
	require.Error(t, srv.StartDaemon())
	require.Error(t, srv.Wait(soon(t), func([]flintlocktest.VM) bool { return false }))
}
