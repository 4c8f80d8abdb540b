package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	diskWait   = 20 * time.Second // for the root disk to appear
	diskDevice = "/dev/vda"       // unless the kernel's command line says root=
)

// onRAMDisk reports whether / is the initial RAM disk. It is not when the kernel mounted the root disk itself.
func onRAMDisk() bool {
	var fs unix.Statfs_t
	if err := unix.Statfs("/", &fs); err != nil {
		return false
	}
	return fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC
}

// rootDevice is what the kernel's command line says.
func rootDevice(cmdline string) string {
	for _, word := range strings.Fields(cmdline) {
		if dev, ok := strings.CutPrefix(word, "root="); ok && strings.HasPrefix(dev, "/dev/") {
			return dev
		}
	}
	return diskDevice
}

// switchRoot goes from the initial RAM disk to the root disk: it loads the drivers, mounts the disk, moves what
// is mounted already, makes the disk the root of this process, and gives the RAM disk's memory back. The process
// goes on; it is not started a second time, which would cost a tenth of a second under emulation.
func switchRoot(con *console) error {
	l := loader{dir: "/modules", sys: "/sys", load: loadModule}
	if err := l.run(); err != nil {
		return fmt.Errorf("load drivers: %w", err)
	}
	con.phase("drivers")
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	device := rootDevice(string(cmdline))
	if err := waitFor(device, diskWait); err != nil {
		return err
	}
	const root = "/root"
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	// The disk dies with the microVM: no times of access, no waiting for a disk that is not kept, and no zeroing of
	// the file system's tables in the background, which would be written to each microVM's own layer.
	if err := unix.Mount(device, root, "ext4", unix.MS_NOATIME, "nobarrier,noinit_itable"); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	if err := grow(device, root); err != nil {
		con.problem(err) // less space than there could be, but a system
	}
	for _, dir := range []string{"dev", "proc", "sys"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
		if err := unix.Mount("/"+dir, filepath.Join(root, dir), "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move /%s: %w", dir, err)
		}
	}
	_ = os.RemoveAll("/modules") // memory only; the rest of the RAM disk is this program, which runs
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	return os.Chdir("/")
}

// resizeFS is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64): make the file system this many blocks large.
const resizeFS = 0x40086610

// grow makes the file system as large as its device: a driver gives each microVM a layer of the size that was
// asked for, on top of an image that is smaller.
func grow(device, mounted string) error {
	size, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(device), "size"))
	if err != nil {
		return fmt.Errorf("read the size of %s: %w", device, err)
	}
	sectors, err := strconv.ParseUint(strings.TrimSpace(string(size)), 10, 63)
	if err != nil {
		return fmt.Errorf("read the size of %s: %w", device, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(mounted, &fs); err != nil {
		return fmt.Errorf("read the size of the root file system: %w", err)
	}
	dir, err := os.Open(mounted)
	if err != nil {
		return err
	}
	defer dir.Close()
	blocks := binary.NativeEndian.AppendUint64(nil, sectors*512/uint64(fs.Bsize))
	if err := ioctlPointer(dir.Fd(), resizeFS, blocks); err != nil {
		return fmt.Errorf("grow the root file system: %w", err)
	}
	return nil
}

// waitFor waits until a path exists. The kernel makes device files by itself, and tells nobody who has not asked
// it over netlink; looking each millisecond is simpler, and the file is mostly there at once.
func waitFor(path string, atMost time.Duration) error {
	for end := time.Now().Add(atMost); ; time.Sleep(time.Millisecond) {
		_, err := os.Stat(path)
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("wait %s for %s: %w", atMost, path, err)
		}
	}
}
