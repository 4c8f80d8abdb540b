package qemu

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/firerunner/firerunner"
)

// portName is the virtio-serial port that the guest agent opens.
const portName = "firerunner.0"

// File descriptors that qemu inherits.
const (
	guestFD   = 3
	networkFD = 4
)

// emulatedCPU has all of x86-64-v2, which Debian and Go need no more than, and random numbers and AES.
const emulatedCPU = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+lahf_lm,+aes,+pclmulqdq,+rdrand,+rdseed"

// arguments is qemu's command line. It names no secret.
//
// The machine is microvm with ACPI (Debian's kernel finds its devices by it) and a clock. Console, guest channel
// and network are inherited descriptors, so nothing else on the host can connect to them; guest memory is private
// anonymous memory.
func arguments(spec shimSpec, mac string) []string {
	args := []string{
		"-name", spec.ID,
		"-M", "microvm,rtc=on",
		"-m", strconv.Itoa(spec.Size.MemoryMiB),
		"-smp", strconv.Itoa(spec.Size.VCPUs),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
	}
	switch spec.Accel {
	case AccelKVM:
		args = append(args, "-accel", "kvm", "-cpu", "host")
	default:
		// Measured: tb-size=64 holds 60 MiB less than the default at the same speed; a processor without AVX boots a
		// fifth faster than "max", because kernel and libraries then leave alone what emulation is slow at.
		args = append(args, "-accel", "tcg,tb-size=64", "-cpu", emulatedCPU)
	}
	args = append(args, "-kernel", spec.Image.Kernel)
	if spec.Image.Initrd != "" {
		args = append(args, "-initrd", spec.Image.Initrd)
	}
	args = append(args,
		"-append", kernelLine(spec),
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-object", "rng-builtin,id=rng", "-device", "virtio-rng-device,rng=rng",
		"-device", "virtio-balloon-device,free-page-reporting=on,deflate-on-oom=on",
	)
	if spec.Provision != firerunner.ProvisionSSH { // where nobody listens, there is no port
		args = append(args,
			"-chardev", fmt.Sprintf("socket,id=guest,fd=%d", guestFD),
			"-device", "virtio-serial-device",
			"-device", "virtserialport,chardev=guest,name="+portName)
	}
	if spec.Image.RootFS != "" {
		args = append(args,
			// The disk dies with the microVM, so nothing need ever be flushed. Where the host has no room the guest stands
			// still: see watchDisk.
			"-drive", "id=disk,if=none,format=qcow2,cache=unsafe,discard=unmap,werror=enospc,file="+escaped(filepath.Join(spec.Dir, overlayFile)),
			"-device", "virtio-blk-device,drive=disk")
	}
	args = append(args, "-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", monitorFD(mac)), "-mon", "chardev=monitor,mode=control")
	if mac != "" {
		args = append(args,
			"-netdev", fmt.Sprintf("stream,id=network,server=off,addr.type=fd,addr.str=%d", networkFD),
			"-device", "virtio-net-device,netdev=network,mac="+escaped(mac))
	}
	return args
}

// kernelLine is the guest kernel's command line. panic=-1 and reboot=t make a panic end qemu at once.
func kernelLine(spec shimSpec) string {
	words := []string{"console=ttyS0", "quiet", "panic=-1", "reboot=t"}
	if spec.Accel != AccelKVM {
		words = append(words, fmt.Sprintf("tsc_early_khz=%d", spec.TSCKHz), "tsc=reliable")
	}
	if spec.Image.Cmdline != "" {
		words = append(words, spec.Image.Cmdline)
	}
	if spec.Provision == firerunner.ProvisionSSH {
		words = append(words, cloudInitWords(spec.Start.Network)...)
	}
	return strings.Join(words, " ")
}

// escaped doubles commas: qemu's options end at single ones.
func escaped(value string) string { return strings.ReplaceAll(value, ",", ",,") }
