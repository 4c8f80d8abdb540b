package flintlocktest

import (
	"context"
	"strings"
)

// VMM makes the virtual machines of a host: what Firecracker is to flintlockd. [Scripted] and [QEMU] are two.
type VMM interface {
	// Start starts m and returns once its process runs, which says nothing about the guest in it. An error is one
	// of the host's reconciliation: it is tried again later. Ctx bounds the start, not the machine's life.
	Start(ctx context.Context, m Machine) (Process, error)
}

// Process is a machine that was started. It belongs to nobody's daemon: it goes on while the fake flintlockd is
// stopped, crashed or restarted, and ends by itself, by Kill, or with [Server.Close].
type Process interface {
	// Done is closed once the machine has ended and everything that served it too.
	Done() <-chan struct{}
	// Kill ends the machine at once and waits for Done. Killing what has ended does nothing.
	Kill()
}

// Machine is what a VMM is asked to start.
type Machine struct {
	UID, Namespace, ID string
	// Boot counts the starts of this machine on its disk, from 1. More than 1 is a ghost: flintlockd starts a dead
	// machine again when nobody has deleted it.
	Boot      int
	VCPUs     int
	MemoryMiB int
	// Kernel and Initrd are files on this host; Initrd may be empty. Both are empty without an image source.
	Kernel, Initrd string
	// Cmdline is the kernel's command line as flintlockd and Firecracker make it.
	Cmdline string
	Disks   []Disk // the root disk first, then the additional ones, in the order of their names in the guest
	// Interfaces are in the order of their names in the guest; eth0, the metadata network, comes first.
	Interfaces []Interface
	// Metadata is what the guest reads at http://169.254.169.254/latest/KEY, decoded.
	Metadata map[string]string
	// Dir is a folder of this machine's own. It is kept from boot to boot and removed with the machine.
	Dir string
}

// Disk is one drive of a machine.
type Disk struct {
	ID       string // the volume's
	Base     string // an ext4 file system that other machines share: never written to
	Layer    string // where this machine's own writes go, kept from boot to boot
	ReadOnly bool
}

// Interface is one network interface of a machine.
type Interface struct {
	DeviceID string
	GuestMAC string // empty = the VMM chooses one
	// HostDevice is the name that the API reports of the host's side.
	HostDevice string
	// Metadata marks the network on which 169.254.169.254 answers and nobody else.
	Metadata bool
	// Address is the static address that was asked for, with its prefix; Gateway too. Both may be empty.
	Address, Gateway string
	Nameservers      []string
}

// metadataPath makes a key of the path under /latest/ that was asked for.
func metadataPath(path string) string { return strings.Trim(path, "/") }
