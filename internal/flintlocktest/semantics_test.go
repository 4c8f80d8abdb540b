package flintlocktest_test

import (
	"context"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/proto/flintlock/services/microvm/v1alpha1"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

// TestCreateErr is what flintlockd refuses, and with which code: Unknown, mostly.
func TestCreateErr(t *testing.T) {
	srv := start(t, flintlocktest.Config{})
	c := dial(t, srv)
	for name, tc := range map[string]struct {
		change func(*types.MicroVMSpec)
		text   string
	}{
		"no id":               {func(s *types.MicroVMSpec) { s.Id = "" }, "name is required"},
		"space in id":         {func(s *types.MicroVMSpec) { s.Id = "a b" }, "invalid argument"},
		"umlaut in id":        {func(s *types.MicroVMSpec) { s.Id = "ä" }, "invalid argument"},
		"umlaut in namespace": {func(s *types.MicroVMSpec) { s.Namespace = "ä" }, "invalid argument"},
		"too little memory":   {func(s *types.MicroVMSpec) { s.MemoryInMb = 512 }, "MemoryInMb"},
		"too much memory":     {func(s *types.MicroVMSpec) { s.MemoryInMb = 40000 }, "MemoryInMb"},
		"less than no vcpu":   {func(s *types.MicroVMSpec) { s.Vcpu = -1 }, "VCPU"},
		"too many vcpus":      {func(s *types.MicroVMSpec) { s.Vcpu = 65 }, "VCPU"},
		"no filename":         {func(s *types.MicroVMSpec) { s.Kernel.Filename = nil }, "Filename"},
		"bad kernel image":    {func(s *types.MicroVMSpec) { s.Kernel.Image = "a b:c:d" }, "Kernel.Image"},
		"bad initrd image":    {func(s *types.MicroVMSpec) { s.Initrd = &types.Initrd{Image: "::"} }, "Initrd.Image"},
		"bad volume image":    {func(s *types.MicroVMSpec) { s.RootVolume.Source.ContainerSource = proto.String("::") }, "Volume.Source"},
		"no volume":           {func(s *types.MicroVMSpec) { s.RootVolume = nil }, "RootVolume"},
		"virtiofs":            {func(s *types.MicroVMSpec) { s.RootVolume.Source.VirtiofsSource = proto.String("/x") }, "not supported"},
		"provider":            {func(s *types.MicroVMSpec) { s.Provider = proto.String("vbox") }, "isn't available"},
		"no interface":        {func(s *types.MicroVMSpec) { s.Interfaces = nil }, "NetworkInterfaces"},
		"interface type":      {func(s *types.MicroVMSpec) { s.Interfaces[0].Type = 0 }, "macvtap"},
		"interface id":        {func(s *types.MicroVMSpec) { s.Interfaces[0].DeviceId = "Eth-1" }, "GuestDeviceName"},
		"address": {func(s *types.MicroVMSpec) {
			s.Interfaces[0].Address = &types.StaticAddress{Address: "10.0.0.2"}
		}, "CIDR"},
		"gateway": {func(s *types.MicroVMSpec) {
			s.Interfaces[0].Address = &types.StaticAddress{Address: "10.0.0.2/24", Gateway: proto.String("10.0.0.1")}
		}, "CIDR"},
		"name server": {func(s *types.MicroVMSpec) {
			s.Interfaces[0].Address = &types.StaticAddress{Address: "10.0.0.2/24", Nameservers: []string{"dns"}}
		}, "not an address"},
		"meta-data": {func(s *types.MicroVMSpec) { s.Metadata["meta-data"] = encoded("{") }, "unmarshalling meta-data"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := goodSpec("vm")
			tc.change(spec)
			_, err := c.CreateMicroVM(soon(t), &v1alpha1.CreateMicroVMRequest{Microvm: spec})
			requireCode(t, codes.Unknown, tc.text, err)
		})
	}
	require.Empty(t, srv.VMs())
	require.True(t, srv.Alive())
}

// TestEmptyErr: only requests with nothing in them have a code of their own.
func TestEmptyErr(t *testing.T) {
	c := dial(t, start(t, flintlocktest.Config{}))
	_, err := c.CreateMicroVM(soon(t), &v1alpha1.CreateMicroVMRequest{})
	requireCode(t, codes.InvalidArgument, "required", err)
	_, err = c.DeleteMicroVM(soon(t), &v1alpha1.DeleteMicroVMRequest{})
	requireCode(t, codes.InvalidArgument, "required", err)
	_, err = c.GetMicroVM(soon(t), &v1alpha1.GetMicroVMRequest{})
	requireCode(t, codes.InvalidArgument, "required", err)
	stream, err := c.ListMicroVMsStream(soon(t), &v1alpha1.ListMicroVMsRequest{})
	require.NoError(t, err)
	_, err = stream.Recv()
	requireCode(t, codes.InvalidArgument, "required", err)

	_, err = c.GetMicroVM(soon(t), &v1alpha1.GetMicroVMRequest{Uid: "x"})
	requireCode(t, codes.Unknown, "not found", err)
	require.True(t, strings.HasSuffix(err.Error(), "not found"))
	_, err = c.DeleteMicroVM(soon(t), &v1alpha1.DeleteMicroVMRequest{Uid: "x"})
	requireCode(t, codes.Unknown, "not found", err)
}

// TestCreateOK is what comes back of a spec.
func TestCreateOK(t *testing.T) {
	srv := start(t, flintlocktest.Config{})
	c := dial(t, srv)
	spec := goodSpec("vm-1")
	spec.Namespace, spec.Vcpu, spec.MemoryInMb = "", 0, 0
	spec.Uid, spec.Provider = proto.String("MINE"), proto.String("firecracker")
	spec.Kernel.Image = " registry.example.com/kernel:6.1\n"
	spec.Interfaces[0].Overrides = &types.NetworkOverrides{BridgeName: proto.String("br1")}
	spec.AdditionalVolumes = []*types.Volume{{
		Id: "data", MountPoint: proto.String("/data"), SizeInMb: proto.Int32(5),
		Source: &types.VolumeSource{ContainerSource: proto.String("registry.example.com/data:1")},
	}}
	spec.Metadata["meta-data"] = encoded("instance-id: vm-1\n")
	spec.Metadata["vendor-data"] = encoded("#cloud-config\nlost: true\nmounts: [[vdz, /z]]\n")
	spec.Metadata["plain"] = "not base64!"
	spec.Metadata["mangled"] = "abcd"
	made, err := c.CreateMicroVM(soon(t), &v1alpha1.CreateMicroVMRequest{Microvm: spec})
	require.NoError(t, err)
	vm := made.GetMicrovm()
	got := vm.GetSpec()
	require.Regexp(t, regexp.MustCompile(`^[0-9A-HJKMNP-TV-Z]{26}$`), got.GetUid())
	require.Equal(t, types.MicroVMStatus_PENDING, vm.GetStatus().GetState())
	require.EqualValues(t, 1, vm.GetVersion())
	require.Equal(t, "default", got.GetNamespace())
	require.EqualValues(t, 2, got.GetVcpu())
	require.EqualValues(t, 1024, got.GetMemoryInMb())
	require.Empty(t, got.GetLabels())
	require.Nil(t, got.Provider)
	require.Nil(t, got.GetCreatedAt())
	require.Equal(t, "registry.example.com/kernel:6.1", got.GetKernel().GetImage())
	require.Nil(t, got.GetAdditionalVolumes()[0].MountPoint)
	require.EqualValues(t, 5, got.GetAdditionalVolumes()[0].GetSizeInMb())
	require.Len(t, got.GetInterfaces(), 2)
	require.Equal(t, "eth0", got.GetInterfaces()[0].GetDeviceId())
	require.Equal(t, "AA:FF:00:00:00:01", got.GetInterfaces()[0].GetGuestMac())
	require.Equal(t, "169.254.0.1/16", got.GetInterfaces()[0].GetAddress().GetAddress())
	require.Nil(t, got.GetInterfaces()[1].GetOverrides())

	now, err := srv.WaitVM(soon(t), got.GetUid(), created)
	require.NoError(t, err)
	require.True(t, now.Running)
	require.Equal(t, map[string]string{"job": "7"}, now.Asked.GetLabels())
	require.Contains(t, now.Metadata["meta-data"], "instance-id: vm-1\n")
	require.Contains(t, now.Metadata["meta-data"], "instance_id: "+got.GetUid()+"\n")
	require.Contains(t, now.Metadata["vendor-data"], "- vdb")
	require.Contains(t, now.Metadata["vendor-data"], "- vdz")
	require.NotContains(t, now.Metadata["vendor-data"], "lost")
	require.Equal(t, "hello from the host\n", now.Metadata["firerunner"])
	require.Equal(t, "not base64!", now.Metadata["plain"])
	require.NotEqual(t, "abcd", now.Metadata["mangled"])
	status := now.Told.GetStatus()
	require.Len(t, status.GetVolumes(), 2)
	require.Equal(t, types.Mount_HOSTPATH, status.GetKernelMount().GetType())
	require.Regexp(t, "^fltap[0-9a-f]{7}$", status.GetNetworkInterfaces()["eth1"].GetHostDeviceName())
	require.Greater(t, now.Told.GetVersion(), int32(1))
}

// TestListOK: duplicates are allowed, order is random, filters filter, and the stream is a snapshot.
func TestListOK(t *testing.T) {
	srv := start(t, flintlocktest.Config{})
	c := dial(t, srv)
	first, second := create(t, c, goodSpec("vm")), create(t, c, goodSpec("vm"))
	require.NotEqual(t, first, second, "the same name twice is two microVMs")
	other := goodSpec("vm")
	other.Namespace = "other"
	third := create(t, c, other)
	fourth := create(t, c, goodSpec("vm-4"))

	orders := map[string]bool{}
	for range 20 {
		orders[strings.Join(list(t, c, "", nil), " ")] = true
	}
	require.Greater(t, len(orders), 1)
	require.ElementsMatch(t, []string{first, second, third, fourth}, list(t, c, "", nil))
	require.ElementsMatch(t, []string{first, second, fourth}, list(t, c, "firerunner", nil))
	require.ElementsMatch(t, []string{first, second}, list(t, c, "firerunner", proto.String("vm")))
	require.Empty(t, list(t, c, "nobody", nil))

	stream, err := c.ListMicroVMsStream(soon(t), &v1alpha1.ListMicroVMsRequest{Namespace: "firerunner", Name: proto.String("vm")})
	require.NoError(t, err)
	var uids []string
	for {
		m, err := stream.Recv()
		if err != nil {
			break
		}
		uids = append(uids, m.GetMicrovm().GetSpec().GetUid())
	}
	require.ElementsMatch(t, []string{first, second, fourth}, uids, "the stream does not look at the name")
}

func list(t *testing.T, c v1alpha1.MicroVMClient, namespace string, name *string) (uids []string) {
	t.Helper()
	got, err := c.ListMicroVMs(soon(t), &v1alpha1.ListMicroVMsRequest{Namespace: namespace, Name: name})
	require.NoError(t, err)
	for _, vm := range got.GetMicrovm() {
		uids = append(uids, vm.GetSpec().GetUid())
	}
	return uids
}

// TestBootRefused: what the API accepts and Firecracker does not ends at once, and is CREATED all the same.
func TestBootRefused(t *testing.T) {
	srv := start(t, flintlocktest.Config{VMM: flintlocktest.Scripted{Guest: func(context.Context, *flintlocktest.Guest) {
		panic("this machine must not start")
	}}})
	c := dial(t, srv)
	for name, tc := range map[string]struct {
		change func(*types.MicroVMSpec)
		reason string
	}{
		"odd vcpus":      {func(s *types.MicroVMSpec) { s.Vcpu = 3 }, "vCPUs"},
		"33 vcpus":       {func(s *types.MicroVMSpec) { s.Vcpu = 33 }, "vCPUs"},
		"own eth0":       {func(s *types.MicroVMSpec) { s.Interfaces[0].DeviceId = "eth0" }, "network_interfaces"},
		"large metadata": {func(s *types.MicroVMSpec) { s.Metadata["x"] = encoded(strings.Repeat("x", 51200)) }, "51200"},
		"long path": {func(s *types.MicroVMSpec) {
			s.Id, s.AllowGuestAgent = strings.Repeat("x", 60), true
		}, "107 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := goodSpec("vm")
			tc.change(spec)
			uid := create(t, c, spec)
			vm, err := srv.WaitVM(soon(t), uid, func(vm flintlocktest.VM) bool { return created(vm) && ended(vm) })
			require.NoError(t, err)
			require.Contains(t, vm.Refusal, tc.reason)
		})
	}
}
