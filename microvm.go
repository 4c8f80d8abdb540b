package firerunner

import "time"

// MicroVMSpec is all that a driver needs to make one microVM. ID is the runner's. Start carries the credential:
// a driver keeps it in memory only, and gives it to the guest and to nobody else.
type MicroVMSpec struct {
	ID       string
	Host     string
	Size     Size
	Image    Image
	Network  NetworkPolicy
	Address  GuestNetwork // a fixed address from the host's pool; zero: the driver or the host's network gives one
	Start    GuestStart
	Deadline time.Time // the microVM ends itself at this time, whoever else is dead

	Provision Provisioning // who brings gitlab-runner into it; empty = agent
	SSH       SSHAccess    // for ProvisionSSH
}

// MicroVM is a microVM as its driver sees it.
type MicroVM struct {
	ID        string
	Host      string
	Alive     bool // false: it has ended, but something of it is left and Destroy is due
	CreatedAt time.Time
	Deadline  time.Time
}

// Image is a kernel and a root file system, by digest. Paths are on the host that boots it.
type Image struct {
	Name      string // as the configuration names it
	Digest    string // sha256:... over everything below; two images with one digest are the same
	Kernel    string // path
	Initrd    string // path
	RootFS    string // path of a raw ext4 file; never written to
	Cmdline   string // kernel words that the image needs, besides the driver's own
	Runner    string // the version of gitlab-runner in it
	Agent     string // the version of the guest agent in it
	BuiltAt   time.Time
	SizeBytes int64    // on disk
	OCI       OCIImage // the same for hosts that pull it from a registry; zero: there is none
}

// OCIImage says where hosts pull an image from. References name registry, repository and digest, so that what boots is
// what was tested: registry.example.com/firerunner/kernel:6.1@sha256:...
type OCIImage struct {
	Kernel     string // reference
	KernelFile string // path of the kernel in it, such as boot/vmlinux
	Initrd     string // reference; empty: the kernel mounts the root disk itself
	InitrdFile string // path in it
	RootFS     string // reference of a plain container image
}

// NetworkPolicy is what a guest may reach. The zero value is nothing at all.
type NetworkPolicy struct {
	Routes []NetworkRoute
	Public bool // public addresses of the Internet; never the host, private, link-local or metadata addresses
}

// NetworkRoute is a name that only this guest's DNS knows, and where connections to it go. It is the one way to
// a private address: GitLab's own.
type NetworkRoute struct {
	Name string // as the guest says it
	Port int    // as the guest says it
	Dial string // host:port as the host dials it
}

// GuestNetwork is how a guest sets up its one network interface.
type GuestNetwork struct {
	Address string // with prefix length, such as 10.42.0.2/24
	Gateway string
	DNS     string
	MAC     string
	MTU     int
}
