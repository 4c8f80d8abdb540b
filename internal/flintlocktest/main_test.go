package flintlocktest_test

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/proto/flintlock/services/microvm/v1alpha1"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test; nothing should come near it.
const patience = 20 * time.Second

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// start starts a host that ends with the test, with delays of milliseconds.
func start(t *testing.T, cfg flintlocktest.Config) *flintlocktest.Server {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.RetryDelay == 0 {
		cfg.RetryDelay = 5 * time.Millisecond
	}
	srv, err := flintlocktest.Start(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, srv.Close())
		require.Zero(t, srv.Running(), "machines outlive the host")
	})
	return srv
}

// dial is a client of a host.
func dial(t *testing.T, srv *flintlocktest.Server, options ...grpc.DialOption) v1alpha1.MicroVMClient {
	t.Helper()
	if len(options) == 0 {
		options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	// Patient, because a daemon that is started again is to be found at once.
	conn, err := grpc.NewClient(srv.Addr(), append(options, grpc.WithDefaultServiceConfig(`{}`), grpc.WithDisableRetry())...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return v1alpha1.NewMicroVMClient(conn)
}

// goodSpec is one that nothing is wrong with.
func goodSpec(id string) *types.MicroVMSpec {
	return &types.MicroVMSpec{
		Id: id, Namespace: "firerunner", Vcpu: 2, MemoryInMb: 1024,
		Labels: map[string]string{"job": "7"},
		Kernel: &types.Kernel{Image: "registry.example.com/kernel:6.1", Filename: proto.String("boot/vmlinux")},
		RootVolume: &types.Volume{
			Id: "root", Source: &types.VolumeSource{ContainerSource: proto.String("registry.example.com/root:1")},
		},
		Interfaces: []*types.NetworkInterface{{DeviceId: "eth1", Type: types.NetworkInterface_TAP}},
		Metadata:   map[string]string{"firerunner": encoded("hello from the host\n")},
	}
}

func encoded(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// create asks for a microVM and returns its uid.
func create(t *testing.T, c v1alpha1.MicroVMClient, spec *types.MicroVMSpec) string {
	t.Helper()
	made, err := c.CreateMicroVM(soon(t), &v1alpha1.CreateMicroVMRequest{Microvm: spec}, grpc.WaitForReady(true))
	require.NoError(t, err)
	return made.GetMicrovm().GetSpec().GetUid()
}

func requireCode(t *testing.T, want codes.Code, text string, err error) {
	t.Helper()
	require.Equal(t, want, status.Code(err), "%v", err)
	require.Contains(t, strings.ToLower(status.Convert(err).Message()), strings.ToLower(text))
}

func created(vm flintlocktest.VM) bool { return vm.State == "CREATED" }
func ended(vm flintlocktest.VM) bool   { return vm.Boots > 0 && !vm.Running }
