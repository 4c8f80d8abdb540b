package flintlocktest

import (
	"encoding/base64"
	"fmt"
	"strings"
	"unicode"

	"google.golang.org/protobuf/proto"
	"gopkg.in/yaml.v3"

	"github.com/firerunner/firerunner/proto/flintlock/types"
)

const (
	metadataDevice  = "eth0"
	metadataAddress = "169.254.0.1/16"
	metaDataKey     = "meta-data"
	vendorDataKey   = "vendor-data"
)

// accepted makes of a request what flintlockd goes on with: defaults filled in, references trimmed.
func accepted(asked *types.MicroVMSpec) *types.MicroVMSpec {
	spec := proto.Clone(asked).(*types.MicroVMSpec)
	if spec.GetNamespace() == "" {
		spec.Namespace = "default"
	}
	if spec.GetVcpu() == 0 {
		spec.Vcpu = 2
	}
	if spec.GetMemoryInMb() == 0 {
		spec.MemoryInMb = 1024
	}
	if spec.Kernel != nil {
		spec.Kernel.Image = trimRef(spec.Kernel.Image)
	}
	if spec.Initrd != nil {
		spec.Initrd.Image = trimRef(spec.Initrd.Image)
	}
	for _, v := range append([]*types.Volume{spec.RootVolume}, spec.AdditionalVolumes...) {
		if v.GetSource().GetContainerSource() != "" {
			v.Source.ContainerSource = proto.String(trimRef(v.GetSource().GetContainerSource()))
		}
	}
	return spec
}

func trimRef(ref string) string {
	return strings.TrimFunc(ref, func(c rune) bool { return unicode.IsSpace(c) || unicode.IsControl(c) })
}

// stored makes of an accepted spec what is kept and told: without what flintlockd has no place for, and with the
// metadata network and the uid.
func stored(spec *types.MicroVMSpec, uid string) (*types.MicroVMSpec, error) {
	spec.Uid = proto.String(uid) // one that the client sent is overwritten
	spec.Labels, spec.Provider = nil, nil
	spec.CreatedAt, spec.UpdatedAt, spec.DeletedAt = nil, nil, nil
	hasMetadata := false
	for _, i := range spec.GetInterfaces() {
		i.Overrides = nil
		hasMetadata = hasMetadata || i.GetDeviceId() == metadataDevice
	}
	if !hasMetadata {
		mmds := &types.NetworkInterface{
			DeviceId: metadataDevice, Type: types.NetworkInterface_TAP, GuestMac: proto.String(MetadataMAC),
			Address: &types.StaticAddress{Address: metadataAddress},
		}
		spec.Interfaces = append([]*types.NetworkInterface{mmds}, spec.Interfaces...)
	}
	if err := addVendorData(spec); err != nil {
		return nil, err
	}
	for _, v := range spec.GetAdditionalVolumes() {
		v.MountPoint = nil
	}
	return spec, addInstanceID(spec, uid)
}

// addInstanceID puts instance_id, with an underscore, into the YAML under meta-data, unless it is there.
func addInstanceID(spec *types.MicroVMSpec, uid string) error {
	values, err := yamlValue(spec, metaDataKey)
	if err != nil {
		return err
	}
	if _, found := values["instance_id"]; found {
		return nil
	}
	values["instance_id"] = uid
	return setYAML(spec, metaDataKey, "", values)
}

// addVendorData writes the mount points of additional volumes for cloud-init, by position. A document that the client
// sent is parsed and written anew.
func addVendorData(spec *types.MicroVMSpec) error {
	var mounts []any
	for n, v := range spec.GetAdditionalVolumes() {
		if v.GetMountPoint() != "" {
			mounts = append(mounts, []any{fmt.Sprintf("vd%c", 'b'+n), v.GetMountPoint()})
		}
	}
	if mounts == nil {
		return nil
	}
	values, err := yamlValue(spec, vendorDataKey)
	if err != nil {
		return err
	}
	before, _ := values["mounts"].([]any)
	return setYAML(spec, vendorDataKey, "#cloud-config\n", map[string]any{"mounts": append(before, mounts...)})
}

func yamlValue(spec *types.MicroVMSpec, key string) (map[string]any, error) {
	values := map[string]any{}
	if err := yaml.Unmarshal([]byte(decoded(spec.GetMetadata()[key])), &values); err != nil {
		return nil, fmt.Errorf("unmarshalling %s: %w", key, err)
	}
	if values == nil {
		values = map[string]any{}
	}
	return values, nil
}

func setYAML(spec *types.MicroVMSpec, key, head string, values map[string]any) error {
	text, err := yaml.Marshal(values)
	if err != nil {
		return fmt.Errorf("marshalling %s: %w", key, err)
	}
	if spec.Metadata == nil {
		spec.Metadata = map[string]string{}
	}
	spec.Metadata[key] = base64.StdEncoding.EncodeToString(append([]byte(head), text...))
	return nil
}

// kernelLine is the kernel's command line: the provider's words, the spec's over them, in random order, and what
// Firecracker adds for a root disk.
func (s *Server) kernelLine(spec *types.MicroVMSpec) string {
	words := map[string]string{
		"console": "ttyS0", "reboot": "k", "panic": "1", "pci": "off",
		"i8042.noaux": "", "i8042.nomux": "", "i8042.nopnp": "", "i8042.dumbkbd": "",
		"ds": "nocloud-net;s=http://" + MetadataAddress + "/latest/",
	}
	for key, value := range spec.GetKernel().GetCmdline() {
		words[key] = value
	}
	if spec.GetKernel().GetAddNetworkConfig() {
		words["network-config"] = base64.StdEncoding.EncodeToString(networkConfig(spec))
	}
	line := make([]string, 0, len(words)+2)
	for key, value := range words {
		if value != "" {
			key += "=" + value
		}
		line = append(line, key)
	}
	s.mu.Lock()
	s.chance.Shuffle(len(line), func(a, b int) { line[a], line[b] = line[b], line[a] })
	s.mu.Unlock()
	access := "rw"
	if spec.GetRootVolume().GetIsReadOnly() {
		access = "ro"
	}
	return strings.Join(append(line, "root=/dev/vda", access), " ")
}

// networkConfig is cloud-init's, version 2: each interface by its MAC if the spec has one and by its name if not, by
// DHCP if it has no static address.
func networkConfig(spec *types.MicroVMSpec) []byte {
	ethernets := map[string]any{}
	for n, i := range spec.GetInterfaces() {
		guest := fmt.Sprintf("eth%d", n)
		eth := map[string]any{}
		if i.GetGuestMac() != "" {
			eth["match"] = map[string]any{"macaddress": i.GetGuestMac()}
			eth["set-name"] = guest
		} else {
			eth["match"] = map[string]any{"name": guest}
		}
		if a := i.GetAddress(); a != nil {
			eth["addresses"] = []string{a.GetAddress()}
			if a.Gateway != nil {
				gateway, _, _ := strings.Cut(a.GetGateway(), "/")
				eth["gateway4"] = gateway
			}
			if len(a.GetNameservers()) > 0 {
				eth["nameservers"] = map[string]any{"addresses": a.GetNameservers()}
			}
		} else {
			eth["dhcp4"] = true
		}
		ethernets[guest] = eth
	}
	text, _ := yaml.Marshal(map[string]any{"version": 2, "ethernets": ethernets}) // texts always marshal
	return text
}
