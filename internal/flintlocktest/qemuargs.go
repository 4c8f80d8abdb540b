package flintlocktest

import (
	"fmt"
	"strconv"
	"strings"
)

// emulatedCPU has all of x86-64-v2, which Linux distributions need no more than, and random numbers and AES. Without
// AVX an emulated guest is faster.
const emulatedCPU = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+lahf_lm,+aes,+pclmulqdq,+rdrand,+rdseed"

// firstWire is the descriptor of the first interface in the qemu process.
const firstWire = 3

// qemuArguments is qemu's command line. The machine is microvm with ACPI, by which a distribution's kernel finds its
// devices. It names no secret: metadata never comes near it.
func qemuArguments(m Machine, wires []wire, accel string, tscKHz uint64) []string {
	args := []string{
		"-name", m.UID,
		"-M", "microvm,rtc=on",
		"-m", strconv.Itoa(m.MemoryMiB), "-smp", strconv.Itoa(m.VCPUs),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-object", "rng-builtin,id=rng", "-device", "virtio-rng-device,rng=rng",
		"-kernel", m.Kernel,
	}
	// What Firecracker does without: a reset without a keyboard controller, which microvm has not got.
	cmdline := m.Cmdline + " reboot=t"
	if accel == "kvm" {
		args = append(args, "-accel", "kvm", "-cpu", "host")
	} else {
		args = append(args, "-accel", "tcg,tb-size=64", "-cpu", emulatedCPU)
		cmdline += fmt.Sprintf(" tsc_early_khz=%d tsc=reliable", tscKHz)
	}
	args = append(args, "-append", cmdline)
	if m.Initrd != "" {
		args = append(args, "-initrd", m.Initrd)
	}
	for n, d := range m.Disks {
		drive := fmt.Sprintf("id=disk%d,if=none,format=qcow2,cache=unsafe,discard=unmap,file=%s", n, escaped(d.Layer))
		if d.ReadOnly {
			drive += ",readonly=on"
		}
		args = append(args, "-drive", drive, "-device", fmt.Sprintf("virtio-blk-device,drive=disk%d", n))
	}
	inherited := firstWire
	for n, w := range wires {
		netdev := fmt.Sprintf("tap,id=net%d,ifname=%s,script=no,downscript=no", n, escaped(w.tap))
		if w.tap == "" {
			netdev = fmt.Sprintf("stream,id=net%d,server=off,addr.type=fd,addr.str=%d", n, inherited)
			inherited++
		}
		args = append(args, "-netdev", netdev, "-device", fmt.Sprintf("virtio-net-device,netdev=net%d,mac=%s", n, escaped(w.mac)))
	}
	return args
}

// escaped doubles commas: qemu's options end at single ones.
func escaped(value string) string { return strings.ReplaceAll(value, ",", ",,") }
