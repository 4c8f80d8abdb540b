package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/qemu"
	"github.com/firerunner/firerunner/internal/image"
)

// The oldest QEMU with -netdev stream, which carries the guest's network: https://wiki.qemu.org/ChangeLog/7.2
const oldestQEMU, oldestQEMUMinor = 7, 2

var qemuVersion = regexp.MustCompile(`version (\d+)\.(\d+)[.\d]*`)

// qemu looks for the programs, and asks QEMU for its version.
func (e *examination) qemu(ctx context.Context) []finding {
	if e.cfg.Driver != "qemu" {
		return []finding{{Verdict: good, Found: "not needed: the driver is " + e.cfg.Driver}}
	}
	const remedy = "apt-get install qemu-system-x86 qemu-utils"
	path, err := e.find(e.cfg.VM.QEMU)
	if err != nil {
		return []finding{{Verdict: fail, Found: err.Error(), Remedy: remedy}}
	}
	if _, err := e.find("qemu-img"); err != nil {
		return []finding{{Verdict: fail, Found: err.Error(), Remedy: remedy}}
	}
	said, err := e.output(ctx, path, "--version")
	if err != nil {
		return []finding{{Verdict: fail, Found: fmt.Sprintf("%s --version: %v", path, err), Remedy: remedy}}
	}
	m := qemuVersion.FindSubmatch(said)
	if m == nil {
		return []finding{{Verdict: fail, Found: path + " does not say a version", Remedy: "is vm.qemu a QEMU?"}}
	}
	major, _ := strconv.Atoi(string(m[1]))
	minor, _ := strconv.Atoi(string(m[2]))
	if major < oldestQEMU || major == oldestQEMU && minor < oldestQEMUMinor {
		return []finding{{
			Verdict: fail, Found: fmt.Sprintf("%s is QEMU %d.%d", path, major, minor),
			Remedy: fmt.Sprintf("QEMU %d.%d or newer is needed", oldestQEMU, oldestQEMUMinor),
		}}
	}
	return []finding{{Verdict: good, Found: fmt.Sprintf("QEMU %s, %s", m[0][len("version "):], path)}}
}

// image looks for each image that a profile names and reads all of it.
func (e *examination) image(ctx context.Context) []finding {
	if e.cfg.Driver != "qemu" {
		return nil
	}
	if e.cfg.VM.KernelImage != "" {
		for _, path := range []string{e.cfg.VM.KernelImage, e.cfg.VM.InitrdImage, e.cfg.VM.RootFSImage} {
			if path == "" {
				continue
			}
			f, err := os.Open(path)
			if err != nil {
				return []finding{{Verdict: fail, Found: err.Error(), Remedy: "correct vm.kernel_image, vm.initrd_image and vm.rootfs_image"}}
			}
			f.Close()
		}
		return []finding{{Verdict: good, Found: "the files that vm names; nothing says what is in them"}}
	}
	images := &image.Store{Dir: e.cfg.Image.Dir}
	var found []finding
	seen := map[string]bool{}
	for _, p := range e.cfg.ProfileList() {
		if seen[p.Image] {
			continue
		}
		seen[p.Image] = true
		i, err := images.Resolve(ctx, p.Image)
		if err == nil {
			err = images.Verify(ctx, p.Image)
		}
		if err != nil {
			f := failing(err, "")
			if firerunner.CodeOf(err) == firerunner.NotFound || f.Remedy == "" {
				f.Remedy = fmt.Sprintf("firerunner image build --name %s --gitlab-runner PATH", p.Image)
			}
			found = append(found, f)
			continue
		}
		found = append(found, finding{
			Verdict: good,
			Found:   fmt.Sprintf("%s is %s, gitlab-runner %s, every file as it was built", p.Image, shortDigest(i.Digest), i.Runner),
		})
	}
	return found
}

// bootable is what the accelerator is tried with: the default profile's image.
func (e *examination) bootable(ctx context.Context) (*firerunner.Image, error) {
	probe := firerunner.Image{Kernel: e.cfg.VM.KernelImage, Initrd: e.cfg.VM.InitrdImage, RootFS: e.cfg.VM.RootFSImage}
	if probe.Kernel == "" {
		var err error
		if probe, err = (&image.Store{Dir: e.cfg.Image.Dir}).Resolve(ctx, e.cfg.ProfileList()[0].Image); err != nil {
			return nil, firerunner.Errorf(firerunner.NotFound, "not tried, because there is no image to boot").
				WithHint("see the check of the image")
		}
	}
	return &probe, nil
}

// stateRemedy is for a driver that cannot be opened.
const stateRemedy = "may this user write to state_dir? run doctor as the user who serves"

// driver opens the qemu driver as serve does; with no image it can boot nothing.
func (e *examination) driver(probe *firerunner.Image) (*qemu.Driver, error) {
	return qemu.New(qemu.Config{
		StateDir: e.cfg.StateDir, QEMU: e.cfg.VM.QEMU, Accel: e.cfg.VM.Accel, Host: e.cfg.Scheduler.HostName,
		UIDBase: e.cfg.VM.UIDBase, ProbeImage: probe, Logger: slog.New(slog.DiscardHandler),
	})
}

// accelerator boots a kernel to see what this machine can do.
func (e *examination) accelerator(ctx context.Context) []finding {
	if e.cfg.Driver != "qemu" {
		return nil
	}
	probe, err := e.bootable(ctx)
	if err != nil {
		return []finding{untried(err)}
	}
	driver, err := e.driver(probe)
	if err != nil {
		return []finding{failing(err, stateRemedy)}
	}
	defer driver.Close()
	accel, reason, err := driver.Accelerator(ctx)
	if err != nil {
		return []finding{failing(err, "see the checks of qemu and image; vm.accel: tcg needs nothing of the machine")}
	}
	if err := driver.Probe(ctx); err != nil {
		return []finding{failing(err, "see the checks of qemu and image; vm.accel: tcg needs nothing of the machine")}
	}
	f := finding{Verdict: good, Found: fmt.Sprintf("%s (%s); a kernel boots", accel, reason)}
	if accel == qemu.AccelTCG && e.cfg.VM.Accel == qemu.AccelAuto {
		f.Verdict = warn
		f.Remedy = "jobs run in emulation, many times slower; use a machine with KVM, or nested virtualization. vm.accel: tcg says that it is meant"
	}
	return []finding{f}
}

// isolation says what holds a microVM besides QEMU itself.
func (e *examination) isolation(context.Context) []finding {
	if e.cfg.Driver != "qemu" {
		return nil
	}
	driver, err := e.driver(nil)
	if err != nil {
		return []finding{failing(err, stateRemedy)}
	}
	defer driver.Close()
	limits := driver.Limits()
	var found []finding
	if !limits.OwnUID {
		found = append(found, finding{
			Verdict: warn, Found: "microVMs run as the user who serves, with the rights of that user",
			Remedy: "serve as root: each microVM is then a user of its own without rights",
		})
	} else {
		found = append(found, finding{Verdict: good, Found: fmt.Sprintf("each microVM is a user of its own, from uid %d on", e.cfg.VM.UIDBase)})
	}
	switch {
	case limits.Missing != "":
		found = append(found, finding{Verdict: warn, Found: fmt.Sprintf("cgroups hold %q only: %s", limits.Cgroups, limits.Missing), Remedy: "serve as root, on a machine with cgroup v2"})
	default:
		found = append(found, finding{Verdict: good, Found: "cgroups hold " + limits.Cgroups})
	}
	return found
}

// memory compares what microVMs may have with what is there now.
func (e *examination) memory(context.Context) []finding {
	host := e.cfg.Host()
	promise := fmt.Sprintf("%d microVMs at once, %d vCPUs, %d MiB", host.Slots, host.VCPUs, host.MemoryMiB)
	available, err := memoryAvailable("/proc/meminfo")
	switch {
	case err != nil:
		return []finding{{Verdict: warn, Found: promise + "; how much memory is free is not known: " + err.Error()}}
	case available < host.MemoryMiB:
		return []finding{{
			Verdict: warn, Found: fmt.Sprintf("%s; but only %d MiB are available now", promise, available),
			Remedy: "lower scheduler.memory_mb, or end what else uses memory (microVMs that run count here)",
		}}
	}
	return []finding{{Verdict: good, Found: fmt.Sprintf("%s; %d MiB are available now", promise, available)}}
}

var availableLine = regexp.MustCompile(`(?m)^MemAvailable:\s+(\d+) kB$`)

// memoryAvailable is in MiB; see proc(5).
func memoryAvailable(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	m := availableLine.FindSubmatch(text)
	if m == nil {
		return 0, errors.New("no MemAvailable in " + path)
	}
	kib, err := strconv.Atoi(string(m[1]))
	return kib >> 10, err
}

// leastDisk is what images and the database need at any rate, in MiB.
const leastDisk = 1024

// disk compares what jobs may write at once with what is free.
func (e *examination) disk(context.Context) []finding {
	var found []finding
	largest := 0
	for _, p := range e.cfg.ProfileList() {
		largest = max(largest, p.Default.DiskMiB)
	}
	dirs := []string{e.cfg.StateDir}
	if rel, err := filepath.Rel(e.cfg.StateDir, e.cfg.Image.Dir); err != nil || !filepath.IsLocal(rel) {
		dirs = append(dirs, e.cfg.Image.Dir)
	}
	for i, dir := range dirs {
		there := dir
		for !exists(there) { // it is made when it is needed
			there = filepath.Dir(there)
		}
		var fs unix.Statfs_t
		if err := unix.Statfs(there, &fs); err != nil {
			found = append(found, finding{Verdict: fail, Found: fmt.Sprintf("%s: %v", there, err), Remedy: "correct state_dir and image.dir"})
			continue
		}
		free := int(fs.Bavail * uint64(fs.Bsize) >> 20)
		f := finding{Verdict: good, Found: fmt.Sprintf("%s: %d MiB free", dir, free)}
		if wanted := largest * e.cfg.Scheduler.Slots; i == 0 && free < wanted {
			f.Verdict = warn
			f.Found += fmt.Sprintf("; jobs may write %d MiB at once", wanted)
			f.Remedy = "make room, or lower vm.default_disk_mb or scheduler.worker_count"
		}
		if free < leastDisk {
			f.Verdict, f.Remedy = fail, fmt.Sprintf("make room: %d MiB at least", leastDisk)
		}
		found = append(found, f)
	}
	return found
}
