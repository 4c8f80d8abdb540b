package config

import (
	"cmp"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/firerunner/firerunner"
)

// imageName is what an image may be called; it becomes a folder's name.
var imageName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// profileName is what a profile may be called; it becomes a metric's label.
var profileName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// Limits of what a machine can have at all; the machine's own are in SizeLimits.
const (
	mostVCPUs     = 1024
	leastMemory   = 128 // MiB; a guest with less does not boot
	mostMemory    = 16 << 20
	leastDisk     = 64 // MiB
	mostDisk      = 64 << 20
	mostTagLength = 255
)

func (k *checker) vm() {
	v := k.VM
	k.between("vm.default_vcpu", v.DefaultVCPU, 1, mostVCPUs)
	k.between("vm.default_memory_mb", v.DefaultMemoryMiB, leastMemory, mostMemory)
	k.between("vm.default_disk_mb", v.DefaultDiskMiB, leastDisk, mostDisk)
	k.between("vm.min_vcpu", v.MinVCPU, 1, mostVCPUs)
	k.between("vm.min_memory_mb", v.MinMemoryMiB, leastMemory, mostMemory)
	k.between("vm.max_vcpu", v.MaxVCPU, 1, mostVCPUs)
	k.between("vm.max_memory_mb", v.MaxMemoryMiB, leastMemory, mostMemory)
	k.between("vm.console_kib", v.ConsoleKiB, 16, 1<<20)
	k.between("vm.job_log_kib", v.JobLogKiB, 16, 1<<20)
	// Below 1000 are the machine's own users; at 2^31 some programs count wrong.
	k.between("vm.uid_base", v.UIDBase, 1000, 1<<31-1-100_000)
	k.oneOf("vm.accel", v.Accel, "auto", "kvm", "tcg")
	if !imageName.MatchString(v.Image) {
		k.problem("vm.image", "%q is not an image's name", short(v.Image)).Hint = "lower-case letters, digits, dot, dash and underscore"
	}
	if v.QEMU == "" || strings.Contains(v.QEMU, "/") && !filepath.IsAbs(v.QEMU) {
		k.problem("vm.qemu", "%q is neither a program's name nor an absolute path", short(v.QEMU))
	}
	if (v.KernelImage == "") != (v.RootFSImage == "") {
		key := "vm.kernel_image"
		if v.RootFSImage == "" {
			key = "vm.rootfs_image"
		}
		k.problem(key, "is missing: kernel_image and rootfs_image go together")
	}
	if v.InitrdImage != "" && v.KernelImage == "" {
		k.problem("vm.initrd_image", "is given without vm.kernel_image")
	}
}

func (k *checker) profiles() {
	taken := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(k.Profiles)) {
		p, key := k.Profiles[name], dotted("profiles", name)
		if !profileName.MatchString(name) {
			k.problem(key, "%q is not a profile's name", short(name)).Hint = "lower-case letters, digits, dash and underscore"
		}
		if len(p.Tags) == 0 && name != firerunner.DefaultProfile {
			k.problem(key, "no job can choose it: tags is missing")
		}
		for _, tag := range p.Tags {
			k.tag(key+".tags", tag)
			if other, ok := taken[tag]; ok {
				k.problem(key+".tags", "tag %q belongs to profile %s already", short(tag), other)
			}
			taken[tag] = name
		}
		if p.Image != "" && !imageName.MatchString(p.Image) {
			k.problem(key+".image", "%q is not an image's name", short(p.Image)).Hint = "lower-case letters, digits, dot, dash and underscore"
		}
		for _, n := range []struct {
			name               string
			value, least, most int
		}{
			{"default_vcpu", p.DefaultVCPU, 1, mostVCPUs},
			{"min_vcpu", p.MinVCPU, 1, mostVCPUs},
			{"max_vcpu", p.MaxVCPU, 1, mostVCPUs},
			{"default_memory_mb", p.DefaultMemoryMiB, leastMemory, mostMemory},
			{"min_memory_mb", p.MinMemoryMiB, leastMemory, mostMemory},
			{"max_memory_mb", p.MaxMemoryMiB, leastMemory, mostMemory},
			{"default_disk_mb", p.DefaultDiskMiB, leastDisk, mostDisk},
		} {
			if n.value != 0 { // 0 is as in vm
				k.between(key+"."+n.name, n.value, n.least, n.most)
			}
		}
		k.sizes(name)
		k.provision(name)
	}
	if _, ok := k.Profiles[firerunner.DefaultProfile]; !ok {
		k.sizes(firerunner.DefaultProfile)
	}
}

// tag checks one tag that is to choose a profile.
func (k *checker) tag(key, tag string) {
	switch _, isSize := firerunner.ParseSizeTag(tag); {
	case isSize:
		k.problem(key, "tag %q is a size, which chooses no profile", tag)
	case tag == "" || len(tag) > mostTagLength || strings.Contains(tag, ",") || strings.TrimSpace(tag) != tag:
		k.problem(key, "%q is not a tag that GitLab allows", short(tag))
	}
}

// sizes checks that the sizes of a profile agree with each other and with what this machine gives, inherited ones
// included.
func (k *checker) sizes(name string) {
	p := k.profile(name)
	vcpus, memory := int(float64(k.Scheduler.VCPUs)*k.Scheduler.OvercommitCPU), k.Scheduler.MemoryMiB
	whoVCPUs, whoMemory := "this machine gives, %d (scheduler.vcpus times overcommit_cpu)", "this machine gives, %d (scheduler.memory_mb)"
	if k.Driver == DriverFlintlock {
		vcpus, memory = k.largest()
		whoVCPUs, whoMemory = "any host gives to one microVM, %d", "any host gives to one microVM, %d"
	}
	for _, n := range []struct {
		what             string
		least, def, most int
		gives            int
		keyDef           string
		keyMax           string
		who              string
	}{
		{
			"vCPU", p.Limits.Min.VCPUs, p.Default.VCPUs, p.Limits.Max.VCPUs, vcpus,
			"default_vcpu", "max_vcpu", whoVCPUs,
		},
		{
			"MiB of memory", p.Limits.Min.MemoryMiB, p.Default.MemoryMiB, p.Limits.Max.MemoryMiB, memory,
			"default_memory_mb", "max_memory_mb", whoMemory,
		},
	} {
		switch {
		case n.least > n.most:
			k.problem(k.keyOf(name, n.keyMax), "the smallest size, %d %s, is beyond the largest, %d", n.least, n.what, n.most)
		case n.def < n.least || n.def > n.most:
			k.problem(k.keyOf(name, n.keyDef), "the default size, %d %s, is not between the smallest, %d, and the largest, %d", n.def, n.what, n.least, n.most)
		case n.gives > 0 && n.most > n.gives:
			k.problem(k.keyOf(name, n.keyMax), "%d %s is more than "+n.who+": such a job would wait forever", n.most, n.what, n.gives)
		}
	}
}

// keyOf returns the key that a profile's value comes from.
func (k *checker) keyOf(profile, name string) string {
	own := dotted(dotted("profiles", profile), name)
	if _, given := k.origins[own]; given {
		return own
	}
	return cmp.Or("vm."+name, own)
}
