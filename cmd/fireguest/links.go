package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// metadataMAC is the address of the interface that Flintlock puts in front of all others of every microVM; it leads
// to the metadata service and to nothing else (https://github.com/liquidmetal-dev/flintlock).
const metadataMAC = "aa:ff:00:00:00:01"

const linkWait = 10 * time.Second // for the interfaces to appear

// netModules are what a kernel without the driver built in needs, in the order of loading.
var netModules = []string{"kernel/net/core/failover.ko", "kernel/drivers/net/net_failover.ko", "kernel/drivers/net/virtio_net.ko"}

// waitLinks waits for the interface that leads to the metadata service and the one that the job gets.
func waitLinks(atMost time.Duration) (metadata, job net.Interface, err error) {
	for end := time.Now().Add(atMost); ; time.Sleep(time.Millisecond) {
		all, err := net.Interfaces()
		if err != nil {
			return metadata, job, fmt.Errorf("list the network interfaces: %w", err)
		}
		metadata, job, err = chooseLinks(all)
		if err == nil || time.Now().After(end) {
			return metadata, job, err
		}
	}
}

// chooseLinks tells the two apart: the kernel names interfaces in the order in which it finds them, which need not be
// the order in which they were given.
func chooseLinks(all []net.Interface) (metadata, job net.Interface, err error) {
	var found []net.Interface
	first := 0
	for _, link := range all {
		if len(link.HardwareAddr) != 6 || link.Flags&net.FlagLoopback != 0 {
			continue
		}
		found = append(found, link)
	}
	if len(found) < 2 {
		return metadata, job, fmt.Errorf("%d network interfaces: there must be one for the metadata and one for the job", len(found))
	}
	for i, link := range found {
		if link.Name == mainLink && found[first].HardwareAddr.String() != metadataMAC || link.HardwareAddr.String() == metadataMAC {
			first = i
		}
	}
	metadata = found[first]
	for i, link := range found {
		if i != first && (job.Index == 0 || link.Index < job.Index) {
			job = link
		}
	}
	return metadata, job, nil
}

// loadNetModules loads the network driver from the root disk, where there is one and no interface yet. What is built
// in or was loaded from the RAM disk is not there or does no harm.
func loadNetModules(modules string, load func(string) error) error {
	all, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, link := range all {
		if len(link.HardwareAddr) == 6 {
			return nil
		}
	}
	var failed error
	for _, file := range netModules {
		found, _ := filepath.Glob(filepath.Join(modules, file) + "*") // .xz, .zst
		for _, path := range found {
			if err := load(path); err != nil {
				failed = errors.Join(failed, fmt.Errorf("load %s: %w", filepath.Base(path), err))
			}
		}
	}
	return failed
}

// modulesDir is where the modules of the running kernel are.
func modulesDir() string {
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	return filepath.Join("/lib/modules", unix.ByteSliceToString(uts.Release[:]))
}

// loadPackedModule hands a module file to the kernel, which unpacks it where its name says so.
func loadPackedModule(path string) error {
	if filepath.Ext(path) == ".ko" {
		return loadModule(path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", unix.MODULE_INIT_COMPRESSED_FILE); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
