package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// earlyMounts are needed before the root disk is there.
var earlyMounts = []mount{
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=755"},
	{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
}

// lateMounts are made on the root disk. /proc shows a user its own processes only, so that a job sees neither the
// agent nor anything else of root's. /tmp stays on the disk: jobs fill it, and memory is what a small microVM has
// least of.
var lateMounts = []mount{
	{"proc", "/proc", "", unix.MS_REMOUNT | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "hidepid=2"},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
	{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755,size=16m"},
}

type mount struct {
	source, target, fstype string
	flags                  uintptr
	options                string
}

func mountAll(mounts []mount) error {
	for _, m := range mounts {
		if m.flags&unix.MS_REMOUNT == 0 {
			if err := os.MkdirAll(m.target, 0o755); err != nil {
				return err
			}
		}
		err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.options)
		if err != nil && err != unix.EBUSY { // busy: mounted by the kernel already
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return nil
}

// sysctls are set where the kernel has them. ptrace_scope 1 lets a process look into its children only: a job can
// debug what it starts, but cannot read the memory of gitlab-runner, which is its parent and of the same user.
var sysctls = map[string]string{
	"kernel/yama/ptrace_scope":    "1",
	"kernel/dmesg_restrict":       "1",
	"kernel/kptr_restrict":        "1",
	"fs/protected_hardlinks":      "1",
	"fs/protected_symlinks":       "1",
	"net/ipv4/ping_group_range":   "0 2147483647", // ping for everybody, without privileges
	"net/ipv6/conf/all/accept_ra": "0",
}

// prepareSystem makes of the mounted root disk a system in which programs can run.
func prepareSystem() error {
	if err := mountAll(lateMounts); err != nil {
		return err
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		_ = os.Symlink(target, filepath.Join("/dev", name)) // there already: fine
	}
	for name, value := range sysctls {
		_ = os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644)
	}
	for resource, limit := range map[int]syscall.Rlimit{
		unix.RLIMIT_NOFILE: {Cur: 65536, Max: 524288},
		unix.RLIMIT_CORE:   {},
	} {
		if err := syscall.Setrlimit(resource, &limit); err != nil {
			return fmt.Errorf("set limit %d: %w", resource, err)
		}
	}
	return nil
}

// power ends the microVM.
func power() {
	_, err := os.Stat("/sys/firmware/acpi")
	cmdline, _ := os.ReadFile("/proc/cmdline")
	_ = unix.Reboot(endCommand(string(cmdline), err == nil))
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	os.Exit(1) // the end of PID 1 is a kernel panic, which ends the microVM as well
}

// endCommand is what ends this kind of microVM. Where there is no ACPI, switching off would only stop the processor
// and leave the virtual machine standing; there, a restart is what ends it, because it was started so that it never
// restarts. Firecracker has ACPI tables without a way to switch off: what it ends at is a reset by the keyboard
// controller, and that is what reboot=k, which it is always started with, makes of a restart:
// https://github.com/firecracker-microvm/firecracker/blob/main/FAQ.md
func endCommand(cmdline string, acpi bool) int {
	if !acpi || slices.Contains(strings.Fields(cmdline), "reboot=k") {
		return unix.LINUX_REBOOT_CMD_RESTART
	}
	return unix.LINUX_REBOOT_CMD_POWER_OFF
}
