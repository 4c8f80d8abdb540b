package config

import (
	"cmp"
	"slices"

	"github.com/firerunner/firerunner"
)

// Host is what this machine gives to microVMs.
func (c *Config) Host() firerunner.Host {
	return firerunner.Host{
		Name:      c.Scheduler.HostName,
		Driver:    c.Driver,
		VCPUs:     int(float64(c.Scheduler.VCPUs) * c.Scheduler.OvercommitCPU),
		MemoryMiB: c.Scheduler.MemoryMiB,
		Slots:     c.Scheduler.Slots,
	}
}

// ProfileList returns the profiles, the default one first, then by name.
func (c *Config) ProfileList() []firerunner.Profile {
	list := []firerunner.Profile{c.profile(firerunner.DefaultProfile)}
	for name := range c.Profiles {
		if name != firerunner.DefaultProfile {
			list = append(list, c.profile(name))
		}
	}
	slices.SortFunc(list[1:], func(a, b firerunner.Profile) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// profile takes from VM what the file leaves out.
func (c *Config) profile(name string) firerunner.Profile {
	p, vm := c.Profiles[name], c.VM
	public := vm.PublicNetwork
	if p.PublicNetwork != nil {
		public = *p.PublicNetwork
	}
	disk := cmp.Or(p.DefaultDiskMiB, vm.DefaultDiskMiB)
	limits := firerunner.SizeLimits{
		Min: firerunner.Size{VCPUs: cmp.Or(p.MinVCPU, vm.MinVCPU), MemoryMiB: cmp.Or(p.MinMemoryMiB, vm.MinMemoryMiB), DiskMiB: disk},
		Max: firerunner.Size{VCPUs: cmp.Or(p.MaxVCPU, vm.MaxVCPU), MemoryMiB: cmp.Or(p.MaxMemoryMiB, vm.MaxMemoryMiB), DiskMiB: disk},
	}
	def := firerunner.Size{VCPUs: vm.DefaultVCPU, MemoryMiB: vm.DefaultMemoryMiB, DiskMiB: disk}
	// A default that was inherited is brought within the profile's own limits; one that does not fit the limits
	// beside it is left for Validate to refuse.
	if p.MinVCPU != 0 || p.MaxVCPU != 0 {
		def.VCPUs = within(def.VCPUs, limits.Min.VCPUs, limits.Max.VCPUs)
	}
	if p.MinMemoryMiB != 0 || p.MaxMemoryMiB != 0 {
		def.MemoryMiB = within(def.MemoryMiB, limits.Min.MemoryMiB, limits.Max.MemoryMiB)
	}
	def.VCPUs, def.MemoryMiB = cmp.Or(p.DefaultVCPU, def.VCPUs), cmp.Or(p.DefaultMemoryMiB, def.MemoryMiB)
	return firerunner.Profile{
		Name:    name,
		Tags:    slices.Clone(p.Tags),
		Image:   cmp.Or(p.Image, vm.Image),
		Default: def,
		Limits:  limits,
		Public:  public,
		Hosts:   slices.Clone(p.Hosts),

		Provision: firerunner.Provisioning(p.Provision),
		SSH:       p.sshAccess(),
	}
}

func within(value, least, most int) int { return max(least, min(value, most)) }
