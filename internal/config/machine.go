package config

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
)

// Machine is what the configuration takes from the machine where the file is silent.
type Machine struct {
	Root      bool
	StateHome string // folder for the state of an ordinary user's programs
	HostName  string
	VCPUs     int
	MemoryMiB int
}

// ThisMachine looks at the machine and the user.
func ThisMachine(environ []string) Machine {
	m := Machine{Root: os.Geteuid() == 0, VCPUs: runtime.NumCPU(), StateHome: lookup(environ, "XDG_STATE_HOME")}
	if !filepath.IsAbs(m.StateHome) { // https://specifications.freedesktop.org/basedir-spec/latest/
		m.StateHome = filepath.Join(lookup(environ, "HOME"), ".local", "state")
	}
	m.HostName, _ = os.Hostname()
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		m.MemoryMiB = int(uint64(info.Totalram) * uint64(info.Unit) >> 20) //nolint:unconvert // 32-bit machines have other types
	}
	return m
}

// Complete fills in what is left to the machine. It changes nothing that was given, so twice is the same.
func (c *Config) Complete(m Machine) {
	if c.StateDir == "" {
		c.StateDir = "/var/lib/firerunner"
		if !m.Root {
			c.StateDir = filepath.Join(m.StateHome, "firerunner")
		}
	}
	fill(&c.Database, "sqlite://"+filepath.Join(c.StateDir, "firerunner.db"))
	fill(&c.Image.Dir, filepath.Join(c.StateDir, "images"))
	fill(&c.GitLab.GuestURL, c.GitLab.URL)
	fill(&c.Scheduler.HostName, m.HostName)
	fill(&c.Scheduler.HostName, "localhost")
	fill(&c.Scheduler.VCPUs, max(m.VCPUs, 1))
	fill(&c.Scheduler.Slots, c.Scheduler.VCPUs)
	fill(&c.Scheduler.MemoryMiB, max(m.MemoryMiB-max(m.MemoryMiB/8, 512), 0))
	vcpus, memory := c.Scheduler.VCPUs, c.Scheduler.MemoryMiB
	if v, m := c.largest(); v > 0 && m > 0 {
		vcpus, memory = v, m
	}
	c.fillMost("vm.default_vcpu", &c.VM.DefaultVCPU, &c.VM.MaxVCPU, vcpus)
	c.fillMost("vm.default_memory_mb", &c.VM.DefaultMemoryMiB, &c.VM.MaxMemoryMiB, memory)
}

// largest is the largest microVM that a host of the fleet can have, over-commit left aside.
func (c *Config) largest() (vcpus, memoryMiB int) {
	for _, h := range c.Fleet() {
		vcpus, memoryMiB = max(vcpus, h.VCPU), max(memoryMiB, h.MemoryMiB)
	}
	return min(vcpus, firerunner.FlintlockMaxVCPUs), min(memoryMiB, firerunner.FlintlockMaxMemoryMiB)
}

// fillMost makes the machine the limit, and brings our default within it, so that an empty file is right on a
// small machine too. A default that the user gave is left for Validate to refuse.
func (c *Config) fillMost(key string, def, most *int, machine int) {
	if *most != 0 {
		return
	}
	*most = machine
	if _, given := c.origins[key]; !given && *def > machine {
		*def = machine
	}
}

func fill[T comparable](to *T, value T) {
	var zero T
	if *to == zero {
		*to = value
	}
}

// lookup returns the last value of a variable in the form of os.Environ.
func lookup(environ []string, name string) string {
	for i := len(environ) - 1; i >= 0; i-- {
		if value, ok := strings.CutPrefix(environ[i], name+"="); ok {
			return value
		}
	}
	return ""
}
