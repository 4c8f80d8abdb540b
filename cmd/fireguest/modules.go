package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// moduleList names the kernel modules of the initial RAM disk, in the order in which they must be loaded, each
// with the condition under which it is:
//
//	virtio_ring.ko always
//	virtio_pci.ko  pci
//	virtio_blk.ko  virtio:2
//	failover.ko    virtio:1,virtio:19
//
// pci is true where there is a PCI bus; virtio:N where there is a virtio device of type N (virtio specification,
// section 5). Only what the machine has is loaded, because each module costs about a millisecond under emulation.
const moduleList = "list"

type module struct {
	file  string
	conds []string
}

func parseModules(text string) ([]module, error) {
	var all []module
	in := bufio.NewScanner(strings.NewReader(text))
	for n := 1; in.Scan(); n++ {
		fields := strings.Fields(in.Text())
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 2 || filepath.Base(fields[0]) != fields[0] {
			return nil, fmt.Errorf("module list: line %d is not FILE CONDITIONS", n)
		}
		all = append(all, module{fields[0], strings.Split(fields[1], ",")})
	}
	return all, in.Err()
}

// loader loads modules. Its fields are the system that it works on.
type loader struct {
	dir  string // where the modules and their list are
	sys  string // /sys
	load func(path string) error
}

func (l *loader) run() error {
	text, err := os.ReadFile(filepath.Join(l.dir, moduleList))
	if err != nil {
		return err
	}
	modules, err := parseModules(string(text))
	if err != nil {
		return err
	}
	for _, m := range modules {
		if !l.wanted(m) {
			continue
		}
		if err := l.load(filepath.Join(l.dir, m.file)); err != nil {
			return fmt.Errorf("load %s: %w", m.file, err)
		}
	}
	return nil
}

func (l *loader) wanted(m module) bool {
	for _, cond := range m.conds {
		kind, arg, _ := strings.Cut(cond, ":")
		switch kind {
		case "always":
			return true
		case "pci":
			if found, _ := filepath.Glob(filepath.Join(l.sys, "bus/pci/devices/*")); len(found) > 0 {
				return true
			}
		case "virtio":
			if l.hasVirtio(arg) {
				return true
			}
		}
	}
	return false
}

func (l *loader) hasVirtio(arg string) bool {
	want, err := strconv.ParseUint(arg, 10, 16)
	if err != nil {
		return false
	}
	found, _ := filepath.Glob(filepath.Join(l.sys, "bus/virtio/devices/*/device"))
	for _, path := range found {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		id, err := strconv.ParseUint(strings.TrimSpace(string(text)), 0, 16)
		if err == nil && id == want {
			return true
		}
	}
	return false
}

// loadModule hands a module file to the kernel. One that is there already is fine.
func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}
