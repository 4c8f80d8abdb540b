package config

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

// DriverFlintlock is the driver whose hosts run flintlockd.
const DriverFlintlock = "flintlock"

// Flintlock is what all hosts have in common that run flintlockd: what a host of the list leaves out is as here. With an
// endpoint, and without a list, it is the one host.
type Flintlock struct {
	Endpoint  string            `yaml:"endpoint"` // host:port of flintlockd's gRPC
	Token     firerunner.Secret `yaml:"token"`    // flintlockd's --basic-auth-token
	TokenFile string            `yaml:"token_file" path:"yes"`
	TLS       TLS               `yaml:"tls"`
	Bridge    string            `yaml:"bridge"`    // for the guests' interface; empty: flintlockd's --bridge-name
	StateDir  string            `yaml:"state_dir"` // flintlockd's --state-dir; empty: its own default

	// References that the hosts pull in place of what the image's manifest says, and the file in each.
	KernelImage string `yaml:"kernel_image"`
	KernelFile  string `yaml:"kernel_file"`
	InitrdImage string `yaml:"initrd_image"`
	InitrdFile  string `yaml:"initrd_file"`
	RootFSImage string `yaml:"rootfs_image"`

	ProbeInterval time.Duration `yaml:"probe_interval"` // how often each host is asked for a sign of life
	ProbeTimeout  time.Duration `yaml:"probe_timeout"`  // for one sign of life
	LostAfter     time.Duration `yaml:"lost_after"`     // a host that is silent for so long is lost, with its microVMs
}

// Host is one machine that carries microVMs and is reached over the network. What it leaves out of the way to it and of
// the images is as in Flintlock.
type Host struct {
	Name      string            `yaml:"name"`
	Endpoint  string            `yaml:"endpoint"`
	Token     firerunner.Secret `yaml:"token"`
	TokenFile string            `yaml:"token_file" path:"yes"`
	TLS       TLS               `yaml:"tls"`

	VCPU          int      `yaml:"vcpu"`
	MemoryMiB     int      `yaml:"memory_mb"`
	OvercommitCPU float64  `yaml:"overcommit_cpu"` // 0: as in Scheduler
	Slots         int      `yaml:"slots"`          // 0: as many as vCPUs, over-commit included
	Labels        []string `yaml:"labels"`         // what profiles may ask for

	KernelImage string `yaml:"kernel_image"`
	KernelFile  string `yaml:"kernel_file"`
	InitrdImage string `yaml:"initrd_image"`
	InitrdFile  string `yaml:"initrd_file"`
	RootFSImage string `yaml:"rootfs_image"`

	Bridge        string    `yaml:"bridge"`
	StateDir      string    `yaml:"state_dir"`
	PublicAddress string    `yaml:"guest_address"` // where this host's guests reach the guest endpoint; empty: as in Guest
	Addresses     Addresses `yaml:"addresses"`
}

// TLS is how a host is spoken to. TLS is on unless Insecure says otherwise.
type TLS struct {
	Insecure   bool   `yaml:"insecure"`             // no TLS: tokens go over the network in the clear
	CAFile     string `yaml:"ca_file" path:"yes"`   // PEM; empty: the machine's own roots
	CertFile   string `yaml:"cert_file" path:"yes"` // for mutual TLS
	KeyFile    string `yaml:"key_file" path:"yes"`
	ServerName string `yaml:"server_name"` // in the certificate; empty: the endpoint's
}

// Guest is where guests call that have no channel of their own to FireRunner.
type Guest struct {
	Host string `yaml:"host"` // where the endpoint listens
	Port int    `yaml:"port"`
	// PublicAddress is the endpoint as guests reach it from their bridge: an address or a name, with a port if it is
	// another one.
	PublicAddress string `yaml:"public_address"`
	// SilentAfter is the silence of a guest after which its microVM counts as dead, and its job as failed.
	SilentAfter time.Duration `yaml:"silent_after"`
}

// Endpoint is host:port as guests call it; empty if it is not known.
func (g Guest) Endpoint() string { return g.endpoint(g.PublicAddress) }

func (g Guest) endpoint(address string) string {
	if address == "" {
		return ""
	}
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	return net.JoinHostPort(strings.Trim(address, "[]"), fmt.Sprint(g.Port))
}

// Fleet returns the hosts of driver flintlock with everything that they take from elsewhere filled in; none for the other
// drivers.
func (c *Config) Fleet() []Host {
	if c.Driver != DriverFlintlock {
		return nil
	}
	hosts := slices.Clone(c.Hosts)
	if len(hosts) == 0 && c.Flintlock.Endpoint != "" {
		hosts = []Host{{
			Name: endpointName(c.Flintlock.Endpoint), Endpoint: c.Flintlock.Endpoint,
			VCPU: c.Scheduler.VCPUs, MemoryMiB: c.Scheduler.MemoryMiB, Slots: c.Scheduler.Slots,
		}}
	}
	for i := range hosts {
		hosts[i] = c.inherit(hosts[i])
	}
	return hosts
}

func (c *Config) inherit(h Host) Host {
	f := c.Flintlock
	if h.Token == "" && h.TokenFile == "" {
		h.Token, h.TokenFile = f.Token, f.TokenFile
	}
	if h.TLS == (TLS{}) {
		h.TLS = f.TLS
	}
	if h.KernelImage == "" {
		h.KernelImage, h.KernelFile = f.KernelImage, cmp.Or(h.KernelFile, f.KernelFile)
	}
	if h.InitrdImage == "" {
		h.InitrdImage, h.InitrdFile = f.InitrdImage, cmp.Or(h.InitrdFile, f.InitrdFile)
	}
	h.RootFSImage = cmp.Or(h.RootFSImage, f.RootFSImage)
	h.Bridge, h.StateDir = cmp.Or(h.Bridge, f.Bridge), cmp.Or(h.StateDir, f.StateDir)
	h.OvercommitCPU = cmp.Or(h.OvercommitCPU, c.Scheduler.OvercommitCPU)
	h.Slots = cmp.Or(h.Slots, h.gives())
	h.PublicAddress = c.Guest.endpoint(cmp.Or(h.PublicAddress, c.Guest.PublicAddress))
	return h
}

// gives is how many vCPUs the host gives away.
func (h Host) gives() int { return int(float64(h.VCPU) * h.OvercommitCPU) }

// endpointName makes a host's name of its endpoint.
func endpointName(endpoint string) string {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		host = endpoint
	}
	return strings.ReplaceAll(host, ":", "-")
}

// HostList is what microVMs may have, host by host: this machine, or the fleet.
func (c *Config) HostList() []firerunner.Host {
	if c.Driver != DriverFlintlock {
		return []firerunner.Host{c.Host()}
	}
	var rows []firerunner.Host
	for _, h := range c.Fleet() {
		pool, _ := h.Addresses.pool() // checked
		rows = append(rows, firerunner.Host{
			Name: h.Name, Driver: c.Driver, VCPUs: h.gives(), MemoryMiB: h.MemoryMiB, Slots: h.Slots,
			Labels: slices.Clone(h.Labels), Addresses: pool,
		})
	}
	return rows
}

// TotalSlots is how many microVMs there may be at once, on all hosts.
func (c *Config) TotalSlots() int {
	total := 0
	for _, h := range c.HostList() {
		total += h.Slots
	}
	return total
}

// OCI is what the host pulls in place of what an image says of itself.
func (h Host) OCI() firerunner.OCIImage {
	return firerunner.OCIImage{
		Kernel: h.KernelImage, KernelFile: h.KernelFile, Initrd: h.InitrdImage, InitrdFile: h.InitrdFile, RootFS: h.RootFSImage,
	}
}
