package flintlock

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/flintlocktest"
)

func TestExamine(t *testing.T) {
	t.Parallel()
	srv, err := flintlocktest.Start(flintlocktest.Config{Dir: t.TempDir(), Token: "right", RetryDelay: 50 * time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	examine := func(token firerunner.Secret) *Examination {
		x, err := Examine(Config{}, Host{Name: "h", Endpoint: srv.Addr(), Token: token, TLS: TLS{Insecure: true}})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, x.Close()) })
		return x
	}
	image := firerunner.Image{Name: "default", OCI: firerunner.OCIImage{
		Kernel: "registry.example.com/kernel" + digest, KernelFile: "boot/vmlinux",
		Initrd: "registry.example.com/kernel" + digest, InitrdFile: "boot/initrd", RootFS: "registry.example.com/root" + digest,
	}}

	x := examine("right")
	require.NoError(t, x.Alive(ctx))
	names, ok, err := x.Services(ctx)
	require.NoError(t, err)
	require.True(t, ok, names)
	require.Equal(t, []string{image.OCI.Kernel, image.OCI.RootFS}, x.Images(image))
	trial, err := x.Try(ctx, TrialSpec{ID: "doctor-1", Image: image})
	require.NoError(t, err)
	require.Positive(t, trial.Took)
	require.Len(t, srv.VMs(), 1)
	require.Equal(t, "fr-doctor", srv.VMs()[0].Namespace)
	require.NoError(t, trial.Remove(ctx))
	require.Empty(t, srv.VMs(), "nothing is left")
	require.Equal(t, 1, srv.Counters().Boots)

	wrong := examine("wrong")
	require.Equal(t, firerunner.Unauthorized, firerunner.CodeOf(wrong.Alive(ctx)))
	_, _, err = wrong.Services(ctx)
	require.Equal(t, firerunner.Unauthorized, firerunner.CodeOf(err))
	_, err = wrong.Try(ctx, TrialSpec{ID: "doctor-2", Image: image})
	require.Equal(t, firerunner.Unauthorized, firerunner.CodeOf(err))

	// What the host cannot make is removed all the same.
	_, err = srv.AddFault(flintlocktest.Fault{Action: flintlocktest.FaultPullError, Image: "registry.example.com/"})
	require.NoError(t, err)
	_, err = x.Try(ctx, TrialSpec{ID: "doctor-3", Image: image})
	require.ErrorContains(t, err, "the host could not make it")
	require.NotEmpty(t, firerunner.HintOf(err))
	require.Eventually(t, func() bool { return len(srv.VMs()) == 0 || srv.VMs()[0].State == "DELETING" }, within, 10*time.Millisecond)

	// Nothing hazardous is sent, here as anywhere.
	for _, spec := range []TrialSpec{{ID: "doctor-4", Image: firerunner.Image{Name: "nothing"}}, {ID: "a/b", Image: image}} {
		_, err = x.Try(ctx, spec)
		require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
	}

	srv.StopDaemon()
	require.Equal(t, firerunner.Unavailable, firerunner.CodeOf(x.Alive(ctx)))
	_, err = Examine(Config{}, Host{Name: "/"})
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
}
