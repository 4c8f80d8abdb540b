package image

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/firerunner/firerunner"
)

// What an image has whose system's own init is to start: one without an agent, and one with openssh-server.
//
// Its initial RAM disk has busybox in place of the agent, because Debian's kernel has the disk's driver as a module.
// The root disk has the kernel's other modules, because such systems find their devices by themselves (udev).

// ownPackages is what a system needs that starts by itself.
var ownPackages = []string{"dbus", "iproute2", "kmod", "systemd-sysv", "udev"}

const (
	busyboxName    = "busybox"
	busyboxPackage = "busybox-static"
	maxBusybox     = 16 << 20

	// ownCmdline keeps the names of network interfaces as Flintlock says them: eth0, eth1.
	ownCmdline = " net.ifnames=0"
)

// plainInit is /init of an initial RAM disk without an agent. It loads every driver of the list, whatever their
// conditions: those without a device do no harm. switch_root ends in a kernel panic where there is no init, and that
// ends the microVM.
const plainInit = `#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
while read -r file conditions; do $b insmod "/modules/$file" 2>/dev/null; done </modules/list
disk=/dev/vda
for word in $($b cat /proc/cmdline); do
	case $word in root=/dev/*) disk=${word#root=} ;; esac
done
n=0
while [ ! -b "$disk" ] && [ $n -lt 400 ]; do $b usleep 50000; n=$((n+1)); done
$b mount -t ext4 -o noatime,nobarrier,noinit_itable "$disk" /root || { echo "firerunner: cannot mount $disk"; exit 1; }
for dir in dev proc sys; do $b mount -o move "/$dir" "/root/$dir"; done
exec $b switch_root /root /sbin/init
`

// plainEntries is what plainInit needs besides.
func plainEntries(baseDir string) ([]Entry, error) {
	busybox, err := os.ReadFile(filepath.Join(baseDir, busyboxName))
	return []Entry{{Path: "bin", Mode: TypeDir | 0o755}, {Path: "bin/busybox", Mode: TypeFile | 0o755, Data: busybox}}, err
}

// ownInit reports whether the system's own init is to start.
func (r Recipe) ownInit() bool { return r.NoAgent || r.SSHD }

// fetchOwn is what the hook that fetches the kernel does besides for such a system: busybox beside the kernel, the
// kernel's modules into the system. It runs in the directory with the kernel's package; the system is $1.
const fetchOwn = `
apt-get -q download ` + busyboxPackage + `
for deb in linux*.deb; do
	dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$1" --keep-directory-symlink --no-same-owner --exclude './boot*' --exclude './usr/share*'
done
chroot "$1" depmod "$(ls "$1/lib/modules")"`

// unpackBusybox takes busybox out of its package.
func (r *run) unpackBusybox(ctx context.Context, from, to string) error {
	fail := func(err error) error {
		return firerunner.Errorf(firerunner.Unavailable, "read the package %s: %w", busyboxPackage, err)
	}
	found, _ := filepath.Glob(filepath.Join(from, busyboxPackage+"_*.deb"))
	if len(found) != 1 {
		return fail(errors.New("apt did not fetch it"))
	}
	var program []byte
	err := r.readDeb(ctx, found[0], func(in io.Reader) error {
		for files := tar.NewReader(in); ; {
			h, err := files.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if h.Typeflag == tar.TypeReg && path.Base(h.Name) == "busybox" && path.Base(path.Dir(h.Name)) == "bin" && h.Size <= maxBusybox {
				if program, err = io.ReadAll(files); err != nil {
					return err
				}
			}
		}
	})
	if err == nil && program == nil {
		err = errors.New("no busybox in it")
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(to, busyboxName), program, 0o755)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// addOwn prepares a system that starts by itself: its disk grows, and nothing in it says which machine it is. Host
// keys least of all: they are made in each microVM, or come with its metadata.
func addOwn(t *tree) error {
	if err := addPlaces(t); err != nil {
		return err
	}
	for _, empty := range []string{"etc/machine-id", "etc/hostname", "etc/resolv.conf"} {
		if dir, base, err := t.walk(empty, false, false, 0); err == nil && dir.children[base] != nil && dir.children[base].kind == kindLink {
			continue // systemd-resolved's
		}
		if err := t.file(empty, 0o644, 0, nil); err != nil {
			return err
		}
	}
	if err := t.file("etc/fstab", 0o644, 0, []byte("/dev/vda / ext4 defaults,noatime,x-systemd.growfs 0 0\n")); err != nil {
		return err
	}
	return addSSHD(t)
}

// hostKeys makes the host's key at the first start of sshd, unless cloud-init has written one before: sshd of Debian
// has them made once, when the package is installed.
const hostKeys = `[Service]
ExecStartPre=
ExecStartPre=/bin/sh -c 'ls /etc/ssh/ssh_host_*_key >/dev/null 2>&1 || exec ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key'
ExecStartPre=/usr/sbin/sshd -t
`

// addSSHD takes the host keys out of a system with sshd.
func addSSHD(t *tree) error {
	etc, err := t.lookup("etc/ssh")
	if err != nil || etc.kind != kindDir {
		return nil //nolint:nilerr // there is no sshd
	}
	for name := range etc.children {
		if strings.HasPrefix(name, "ssh_host_") {
			delete(etc.children, name)
		}
	}
	if !t.has("usr/sbin/sshd") {
		return nil
	}
	return t.file("etc/systemd/system/ssh.service.d/firerunner.conf", 0o644, 0, []byte(hostKeys))
}
