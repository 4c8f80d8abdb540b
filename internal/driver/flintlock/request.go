package flintlock

import (
	"crypto/sha256"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

const (
	rootVolume  = "root"
	guestDevice = "eth1" // the first after flintlockd's own eth0
)

// request is what flintlockd is asked for. The GitLab token is not in it: the guest gets that from the guest endpoint,
// for the one-time token.
func (c Config) request(h Host, spec firerunner.MicroVMSpec, token firerunner.Secret) (*types.MicroVMSpec, error) {
	image := h.image(spec.Image)
	words, err := kernelWords(spec.Image.Cmdline)
	if err != nil {
		return nil, err
	}
	own := &types.NetworkInterface{DeviceId: guestDevice, Type: types.NetworkInterface_TAP}
	mac := or(spec.Address.MAC, guestMAC(spec.ID))
	own.GuestMac = &mac
	if h.Bridge != "" {
		own.Overrides = &types.NetworkOverrides{BridgeName: &h.Bridge}
	}
	if own.Address, err = staticAddress(spec.Address); err != nil {
		return nil, err
	}
	vm := &types.MicroVMSpec{
		Id: spec.ID, Namespace: c.Namespace,
		Vcpu: clamp(spec.Size.VCPUs), MemoryInMb: clamp(spec.Size.MemoryMiB),
		Kernel: &types.Kernel{Image: image.Kernel, Filename: &image.KernelFile, Cmdline: words, AddNetworkConfig: true},
		RootVolume: &types.Volume{
			Id: rootVolume, Source: &types.VolumeSource{ContainerSource: &image.RootFS},
		},
		Interfaces: []*types.NetworkInterface{own},
	}
	if image.Initrd != "" {
		vm.Initrd = &types.Initrd{Image: image.Initrd, Filename: &image.InitrdFile}
	}
	vm.Metadata, err = c.guestMetadata(h, spec, token)
	return vm, err
}

// clamp keeps a number that is far too large from becoming a small one.
func clamp(n int) int32 {
	const tooMuch = 1 << 30
	return int32(max(-1, min(n, tooMuch)))
}

// kernelWords makes a map of a command line, which is all that flintlockd passes on: it emits the words in random order,
// so a word that is there twice, or whose place matters, cannot be had.
func kernelWords(cmdline string) (map[string]string, error) {
	words := map[string]string{}
	for _, w := range strings.Fields(cmdline) {
		key, value, _ := strings.Cut(w, "=")
		if _, twice := words[key]; twice {
			return nil, refuse("the image's kernel word %.60q is there twice, and flintlockd passes a word on once", key)
		}
		if key == "--" {
			return nil, refuse("the image has kernel words after --, and flintlockd keeps no order")
		}
		words[key] = value
	}
	return words, nil
}

// staticAddress is the fixed address of the guest's own interface; nil where its network gives it one.
func staticAddress(n firerunner.GuestNetwork) (*types.StaticAddress, error) {
	if n.Address == "" {
		return nil, nil
	}
	own, err := netip.ParsePrefix(n.Address)
	if err != nil {
		return nil, refuse("the guest's address %.60q has no prefix length", n.Address)
	}
	a := &types.StaticAddress{Address: own.String()}
	if n.Gateway != "" {
		gateway := n.Gateway
		if !strings.Contains(gateway, "/") { // flintlockd wants one at the gateway too
			gateway += "/" + strconv.Itoa(own.Bits())
		}
		a.Gateway = &gateway
	}
	if n.DNS != "" {
		a.Nameservers = []string{n.DNS}
	}
	return a, nil
}

// guestMAC is a hardware address of the guest's own, the same for the same ID: by it the network configuration finds
// the interface, whatever the guest's kernel calls it. It is locally administered, and not eth0's.
func guestMAC(id string) string {
	sum := sha256.Sum256([]byte("firerunner guest " + id))
	return net.HardwareAddr{0x06, sum[0], sum[1], sum[2], sum[3], sum[4]}.String()
}
