package flintlock

import (
	"encoding/base64"
	"encoding/json"
	"net"
	"net/netip"
	"path"
	"regexp"
	"strings"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

// Limits of Firecracker, flintlockd and Linux.
const (
	minMemoryMiB     = 1024 // flintlockd takes no less
	maxMemoryMiB     = 32768
	maxVCPUs         = 32                     // Firecracker's
	maxMetadata      = 50_000                 // bytes of all keys and base64 values
	maxMetadataStore = 51_200                 // bytes of the decoded values as JSON: Firecracker's MMDS limit
	maxNames         = 35                     // letters of namespace and id together
	maxSocketPath    = 107                    // bytes that a unix socket's address has room for
	uidLength        = 26                     // a ULID's
	socketName       = "guest-agent.vsock"    // in a microVM's state folder
	metadataMAC      = "aa:ff:00:00:00:01"    // of eth0, in every guest
	metadataDevice   = "eth0"                 // flintlockd's own interface
	firecracker      = "firecracker"          // the one provider with a metadata service
	networkConfigKey = "network-config"       // flintlockd's own word on the command line
	unquotable       = " \t\r\n\"'\\\x00\x7f" // nothing that a kernel's command line would take apart
)

var (
	deviceForm  = regexp.MustCompile(`^[a-z][a-z0-9_]{0,14}$`)
	volumeForm  = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	keyForm     = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	cmdwordForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,126}$`)
)

// rules is what a request is held against besides what is always so.
type rules struct {
	stateDir string // flintlockd's
	tags     bool   // references without a digest are accepted
}

// validate refuses, before a byte is sent, every request that would end or block a whole host's daemon, and those
// that the host would accept and then fail. It is pure.
func (r rules) validate(spec *types.MicroVMSpec) error {
	if spec == nil {
		return refuse("there is no microVM in the request")
	}
	for _, check := range []func(*types.MicroVMSpec) error{
		r.names, size, r.kernel, r.volumes, interfaces, metadata,
	} {
		if err := check(spec); err != nil {
			return err
		}
	}
	if p := spec.Provider; p != nil && *p != firecracker {
		return refuse("provider %.40q has no metadata service, by which guests learn whom to call", *p)
	}
	return nil
}

func refuse(format string, args ...any) *firerunner.Error {
	return firerunner.Errorf(firerunner.Invalid, format, args...)
}

// names: an id with a slash can be neither read nor deleted, and from then on no list of that host either. Every other
// character outside the form is refused by some part of the host, or leads out of the state folder.
func (r rules) names(spec *types.MicroVMSpec) error {
	switch {
	case !nameForm.MatchString(spec.Id):
		return refuse("id %.80q is not 1 to 31 of a-z, 0-9 and -", spec.Id)
	case !nameForm.MatchString(spec.Namespace):
		return refuse("namespace %.80q is not 1 to 31 of a-z, 0-9 and -", spec.Namespace)
	case len(spec.Id)+len(spec.Namespace) > maxNames:
		return refuse("namespace %s and id %s have more than %d letters together", spec.Namespace, spec.Id, maxNames)
	}
	socket := path.Join(r.stateDir, "vm", spec.Namespace, spec.Id, strings.Repeat("0", uidLength), socketName)
	if len(socket) > maxSocketPath {
		return refuse("flintlockd's state folder %.80q is so long that sockets in it would have %d bytes, more than %d", r.stateDir, len(socket), maxSocketPath).
			WithHint("run flintlockd with a shorter --state-dir")
	}
	return nil
}

// size: flintlockd asks for hyper-threads, so Firecracker takes 1 or an even number of vCPUs. Zero would be the daemon's
// default, which is not what anybody asked for.
func size(spec *types.MicroVMSpec) error {
	switch {
	case spec.Vcpu < 1 || spec.Vcpu > maxVCPUs || spec.Vcpu > 1 && spec.Vcpu%2 != 0:
		return refuse("%d vCPUs: Firecracker boots with 1 or an even number up to %d", spec.Vcpu, maxVCPUs).
			WithHint("ask for the next even number")
	case spec.MemoryInMb < minMemoryMiB || spec.MemoryInMb > maxMemoryMiB:
		return refuse("%d MiB of memory: flintlockd takes %d to %d", spec.MemoryInMb, minMemoryMiB, maxMemoryMiB)
	}
	return nil
}

// kernel: a request without one ends the daemon, and the record that it leaves does so at every start.
func (r rules) kernel(spec *types.MicroVMSpec) error {
	k := spec.Kernel
	if k == nil {
		return refuse("no kernel is named")
	}
	if err := checkReference("kernel image", k.Image, r.tags); err != nil {
		return err
	}
	if err := fileInImage("kernel", k.GetFilename()); err != nil {
		return err
	}
	if spec.Initrd != nil {
		if err := checkReference("initial RAM disk's image", spec.Initrd.Image, r.tags); err != nil {
			return err
		}
		if err := fileInImage("initial RAM disk", spec.Initrd.GetFilename()); err != nil {
			return err
		}
	}
	for word, value := range k.Cmdline {
		if !cmdwordForm.MatchString(word) || len(value) > 512 || strings.ContainsAny(value, unquotable) {
			return refuse("kernel word %.60q=%.60q cannot be passed on", word, value)
		}
		if word == networkConfigKey && k.AddNetworkConfig {
			return refuse("kernel word %s is flintlockd's own", networkConfigKey)
		}
	}
	return nil
}

func fileInImage(what, name string) error {
	switch {
	case name == "":
		return refuse("the %s's file in its image is not named", what).WithHint("name it, such as boot/vmlinux")
	case path.IsAbs(name) || path.Clean(name) != name || name == ".." || strings.HasPrefix(name, "../") || len(name) > 255 ||
		strings.ContainsAny(name, unquotable):
		return refuse("the %s's file %.80q is not a plain path inside its image", what, name)
	}
	return nil
}

// volumes: two with one id share a snapshot, so that one guest's writes are the other's disk.
func (r rules) volumes(spec *types.MicroVMSpec) error {
	if spec.RootVolume == nil {
		return refuse("no root volume is named")
	}
	seen := map[string]bool{}
	for i, v := range append([]*types.Volume{spec.RootVolume}, spec.AdditionalVolumes...) {
		switch {
		case v == nil:
			return refuse("volume %d is nothing", i)
		case !volumeForm.MatchString(v.Id):
			return refuse("volume id %.80q is not a plain name", v.Id)
		case seen[v.Id]:
			return refuse("two volumes are called %s: they would share one snapshot", v.Id)
		case v.Source.GetVirtiofsSource() != "":
			return refuse("volume %s is a folder of the host: Firecracker has no virtiofs", v.Id)
		}
		seen[v.Id] = true
		if err := checkReference("image of volume "+v.Id, v.Source.GetContainerSource(), r.tags); err != nil {
			return err
		}
	}
	return nil
}

// interfaces: flintlockd puts its own eth0 first, unless the client has one called so: then the guest has no metadata
// and Firecracker does not start. Overrides without a bridge end the daemon. MACVTAP, the zero value, is not for
// Firecracker.
func interfaces(spec *types.MicroVMSpec) error {
	if len(spec.Interfaces) == 0 {
		return refuse("no network interface is named: flintlockd demands one")
	}
	seen := map[string]bool{}
	for i, n := range spec.Interfaces {
		switch {
		case n == nil:
			return refuse("network interface %d is nothing", i)
		case !deviceForm.MatchString(n.DeviceId):
			return refuse("network interface %.40q is not a plain name", n.DeviceId)
		case n.DeviceId == metadataDevice:
			return refuse("network interface %s is flintlockd's own, for metadata", metadataDevice)
		case seen[n.DeviceId]:
			return refuse("two network interfaces are called %s", n.DeviceId)
		case n.Type != types.NetworkInterface_TAP:
			return refuse("network interface %s is of type %s: Firecracker has TAP only", n.DeviceId, n.Type)
		case n.Overrides != nil && n.Overrides.GetBridgeName() == "":
			return refuse("network interface %s has overrides without a bridge", n.DeviceId)
		case n.Overrides != nil && !bridge(n.Overrides.GetBridgeName()):
			return refuse("bridge %.40q is no name of a Linux interface", n.Overrides.GetBridgeName())
		}
		seen[n.DeviceId] = true
		if err := hardware(n); err != nil {
			return err
		}
		if err := address(n); err != nil {
			return err
		}
	}
	return nil
}

// bridge is what Linux takes for an interface's name.
func bridge(name string) bool {
	return len(name) <= 15 && name != "." && name != ".." &&
		!strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == ':' })
}

func hardware(n *types.NetworkInterface) error {
	if n.GuestMac == nil {
		return nil
	}
	mac, err := net.ParseMAC(n.GetGuestMac())
	switch {
	case err != nil || len(mac) != 6 || mac[0]&1 != 0:
		return refuse("network interface %s: %.40q is no hardware address of one machine", n.DeviceId, n.GetGuestMac())
	case mac.String() == metadataMAC:
		return refuse("network interface %s has the hardware address of %s", n.DeviceId, metadataDevice)
	}
	return nil
}

// address: flintlockd wants a prefix length at the gateway too.
func address(n *types.NetworkInterface) error {
	a := n.Address
	if a == nil {
		return nil
	}
	own, err := netip.ParsePrefix(a.Address)
	if err != nil || own.Addr().IsLinkLocalUnicast() {
		return refuse("network interface %s: address %.60q is no address with a prefix length, or link-local", n.DeviceId, a.Address)
	}
	if a.Gateway != nil {
		gateway, err := netip.ParsePrefix(a.GetGateway())
		switch {
		case err != nil:
			return refuse("network interface %s: gateway %.60q is no address with a prefix length", n.DeviceId, a.GetGateway())
		case !own.Contains(gateway.Addr()):
			return refuse("network interface %s: gateway %s is not in the network of %s", n.DeviceId, gateway.Addr(), own)
		case gateway.Addr() == own.Addr():
			return refuse("network interface %s: the guest would be its own gateway, %s", n.DeviceId, own.Addr())
		}
	}
	for _, server := range a.Nameservers {
		if _, err := netip.ParseAddr(server); err != nil {
			return refuse("network interface %s: name server %.60q is no address", n.DeviceId, server)
		}
	}
	return nil
}

// metadata: a value that is not base64 is passed on as it is, and one that happens to be is mangled. With more than the
// MMDS takes, Firecracker does not start.
func metadata(spec *types.MicroVMSpec) error {
	total, decoded := 0, map[string]string{}
	for key, value := range spec.Metadata {
		if !keyForm.MatchString(key) {
			return refuse("metadata key %.80q is not a plain name", key)
		}
		if key == vendorDataKey && value != base64.StdEncoding.EncodeToString([]byte(noVendorData)) {
			return refuse("metadata key %s is flintlockd's own", key)
		}
		text, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			return refuse("metadata %s is not in base64", key)
		}
		total += len(key) + len(value)
		decoded[key] = string(text)
	}
	if total >= maxMetadata {
		return refuse("metadata has %d bytes; fewer than %d fit", total, maxMetadata)
	}
	store, err := json.Marshal(map[string]any{"latest": decoded})
	if err != nil || len(store) >= maxMetadataStore {
		return refuse("metadata takes %d bytes in Firecracker; fewer than %d fit", len(store), maxMetadataStore)
	}
	return nil
}
