package flintlock_test

import (
	"fmt"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/firerunner/firerunner/proto/flintlock/services/microvm/v1alpha1"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

// What is on the wire of v0.11.0, and of v0.6.0 where it has it: [?] is explicit presence, [] is repeated.
const (
	wireTypes = `
flintlock.types.ContainerVolumeSource.image = 1 string
flintlock.types.Initrd.filename = 2 string?
flintlock.types.Initrd.image = 1 string
flintlock.types.Kernel.add_network_config = 4 bool
flintlock.types.Kernel.cmdline = 2 map<string,string>
flintlock.types.Kernel.filename = 3 string?
flintlock.types.Kernel.image = 1 string
flintlock.types.MicroVM.spec = 2 flintlock.types.MicroVMSpec?
flintlock.types.MicroVM.status = 3 flintlock.types.MicroVMStatus?
flintlock.types.MicroVM.version = 1 int32
flintlock.types.MicroVMSpec.additional_volumes = 9 flintlock.types.Volume[]
flintlock.types.MicroVMSpec.allow_guest_agent = 17 bool
flintlock.types.MicroVMSpec.created_at = 12 google.protobuf.Timestamp?
flintlock.types.MicroVMSpec.deleted_at = 14 google.protobuf.Timestamp?
flintlock.types.MicroVMSpec.id = 1 string
flintlock.types.MicroVMSpec.initrd = 7 flintlock.types.Initrd?
flintlock.types.MicroVMSpec.interfaces = 10 flintlock.types.NetworkInterface[]
flintlock.types.MicroVMSpec.kernel = 6 flintlock.types.Kernel?
flintlock.types.MicroVMSpec.labels = 3 map<string,string>
flintlock.types.MicroVMSpec.memory_in_mb = 5 int32
flintlock.types.MicroVMSpec.metadata = 11 map<string,string>
flintlock.types.MicroVMSpec.namespace = 2 string
flintlock.types.MicroVMSpec.provider = 16 string?
flintlock.types.MicroVMSpec.root_volume = 8 flintlock.types.Volume?
flintlock.types.MicroVMSpec.uid = 15 string?
flintlock.types.MicroVMSpec.updated_at = 13 google.protobuf.Timestamp?
flintlock.types.MicroVMSpec.vcpu = 4 int32
flintlock.types.MicroVMStatus.MicroVMState.CREATED = 1
flintlock.types.MicroVMStatus.MicroVMState.DELETING = 3
flintlock.types.MicroVMStatus.MicroVMState.FAILED = 2
flintlock.types.MicroVMStatus.MicroVMState.PENDING = 0
flintlock.types.MicroVMStatus.initrd_mount = 4 flintlock.types.Mount?
flintlock.types.MicroVMStatus.kernel_mount = 3 flintlock.types.Mount?
flintlock.types.MicroVMStatus.network_interfaces = 5 map<string,flintlock.types.NetworkInterfaceStatus>
flintlock.types.MicroVMStatus.retry = 6 int32
flintlock.types.MicroVMStatus.state = 1 flintlock.types.MicroVMStatus.MicroVMState
flintlock.types.MicroVMStatus.volumes = 2 map<string,flintlock.types.VolumeStatus>
flintlock.types.MicroVMStatus.vsock_path = 7 string
flintlock.types.Mount.MountType.DEV = 0
flintlock.types.Mount.MountType.HOSTPATH = 1
flintlock.types.Mount.source = 2 string
flintlock.types.Mount.type = 1 flintlock.types.Mount.MountType
flintlock.types.NetworkInterface.IfaceType.MACVTAP = 0
flintlock.types.NetworkInterface.IfaceType.TAP = 1
flintlock.types.NetworkInterface.address = 5 flintlock.types.StaticAddress?
flintlock.types.NetworkInterface.device_id = 1 string
flintlock.types.NetworkInterface.guest_mac = 4 string?
flintlock.types.NetworkInterface.overrides = 6 flintlock.types.NetworkOverrides?
flintlock.types.NetworkInterface.type = 2 flintlock.types.NetworkInterface.IfaceType
flintlock.types.NetworkInterfaceStatus.host_device_name = 1 string
flintlock.types.NetworkInterfaceStatus.index = 2 int32
flintlock.types.NetworkInterfaceStatus.mac_address = 3 string
flintlock.types.NetworkOverrides.bridge_name = 1 string?
flintlock.types.StaticAddress.address = 1 string
flintlock.types.StaticAddress.gateway = 2 string?
flintlock.types.StaticAddress.nameservers = 3 string[]
flintlock.types.VirtioFSVolumeSource.path = 1 string
flintlock.types.Volume.id = 1 string
flintlock.types.Volume.is_read_only = 2 bool
flintlock.types.Volume.mount_point = 3 string?
flintlock.types.Volume.partition_id = 5 string?
flintlock.types.Volume.size_in_mb = 6 int32?
flintlock.types.Volume.source = 4 flintlock.types.VolumeSource?
flintlock.types.VolumeSource.container_source = 1 string?
flintlock.types.VolumeSource.virtiofs_source = 2 string?
flintlock.types.VolumeStatus.mount = 1 flintlock.types.Mount?`
	wireService = `
/microvm.services.api.v1alpha1.MicroVM/CreateMicroVM microvm.services.api.v1alpha1.CreateMicroVMRequest microvm.services.api.v1alpha1.CreateMicroVMResponse
/microvm.services.api.v1alpha1.MicroVM/DeleteMicroVM microvm.services.api.v1alpha1.DeleteMicroVMRequest google.protobuf.Empty
/microvm.services.api.v1alpha1.MicroVM/GetMicroVM microvm.services.api.v1alpha1.GetMicroVMRequest microvm.services.api.v1alpha1.GetMicroVMResponse
/microvm.services.api.v1alpha1.MicroVM/ListMicroVMs microvm.services.api.v1alpha1.ListMicroVMsRequest microvm.services.api.v1alpha1.ListMicroVMsResponse
/microvm.services.api.v1alpha1.MicroVM/ListMicroVMsStream microvm.services.api.v1alpha1.ListMicroVMsRequest stream microvm.services.api.v1alpha1.ListMessage
microvm.services.api.v1alpha1.CreateMicroVMRequest.metadata = 2 map<string,google.protobuf.Any>
microvm.services.api.v1alpha1.CreateMicroVMRequest.microvm = 1 flintlock.types.MicroVMSpec?
microvm.services.api.v1alpha1.CreateMicroVMResponse.microvm = 1 flintlock.types.MicroVM?
microvm.services.api.v1alpha1.DeleteMicroVMRequest.uid = 1 string
microvm.services.api.v1alpha1.GetMicroVMRequest.uid = 1 string
microvm.services.api.v1alpha1.GetMicroVMResponse.microvm = 1 flintlock.types.MicroVM?
microvm.services.api.v1alpha1.ListMessage.microvm = 1 flintlock.types.MicroVM?
microvm.services.api.v1alpha1.ListMicroVMsRequest.name = 2 string?
microvm.services.api.v1alpha1.ListMicroVMsRequest.namespace = 1 string
microvm.services.api.v1alpha1.ListMicroVMsResponse.microvm = 1 flintlock.types.MicroVM[]`
)

func TestWire(t *testing.T) {
	for _, c := range []struct {
		file protoreflect.FileDescriptor
		name string
		want string
	}{
		{types.File_types_microvm_proto, "types/microvm.proto", wireTypes},
		{v1alpha1.File_services_microvm_v1alpha1_microvms_proto, "services/microvm/v1alpha1/microvms.proto", wireService},
	} {
		require.Equal(t, c.name, c.file.Path(), "reflection names the files")
		lines := messages(c.file.Messages())
		for i := range c.file.Services().Len() {
			methods := c.file.Services().Get(i).Methods()
			for j := range methods.Len() {
				m := methods.Get(j)
				stream := map[bool]string{true: "stream "}
				lines = append(lines, fmt.Sprintf("/%s/%s %s%s %s%s", m.Parent().FullName(), m.Name(),
					stream[m.IsStreamingClient()], m.Input().FullName(), stream[m.IsStreamingServer()], m.Output().FullName()))
			}
		}
		sort.Strings(lines)
		require.Equal(t, strings.TrimSpace(c.want), strings.Join(lines, "\n"))
	}
	require.Equal(t, "/microvm.services.api.v1alpha1.MicroVM/CreateMicroVM", v1alpha1.MicroVM_CreateMicroVM_FullMethodName)
}

func messages(all protoreflect.MessageDescriptors) (lines []string) {
	for i := range all.Len() {
		m := all.Get(i)
		if m.IsMapEntry() {
			continue
		}
		for j := range m.Fields().Len() {
			f := m.Fields().Get(j)
			lines = append(lines, fmt.Sprintf("%s = %d %s", f.FullName(), f.Number(), kind(f)))
		}
		for j := range m.Enums().Len() {
			e := m.Enums().Get(j)
			for k := range e.Values().Len() {
				v := e.Values().Get(k)
				lines = append(lines, fmt.Sprintf("%s.%s = %d", e.FullName(), v.Name(), v.Number()))
			}
		}
		lines = append(lines, messages(m.Messages())...)
	}
	return lines
}

func kind(f protoreflect.FieldDescriptor) string {
	if f.IsMap() {
		return "map<" + kind(f.MapKey()) + "," + strings.TrimSuffix(kind(f.MapValue()), "?") + ">"
	}
	name := f.Kind().String()
	if f.Message() != nil {
		name = string(f.Message().FullName())
	} else if f.Enum() != nil {
		name = string(f.Enum().FullName())
	}
	switch {
	case f.IsList():
		return name + "[]"
	case f.HasPresence() && !f.ContainingMessage().IsMapEntry():
		return name + "?"
	}
	return name
}
