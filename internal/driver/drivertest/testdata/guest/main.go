// Command guest is the smallest guest that the driver suite can talk to: PID 1 of an initramfs, standard library
// only. It loads the virtio modules, opens the port firerunner.0 and speaks lines:
//
//	guest: hello                     host: start SCRIPT
//	guest: report KIND [MESSAGE]     host: order finish|stop
//
// SCRIPT says how to behave, so that one image serves every test.
package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		_ = os.MkdirAll(m[1], 0o755)
		_ = syscall.Mount(m[0], m[1], m[0], 0, "")
	}
	loadModules()
	port, err := openPort("firerunner.0")
	if err != nil {
		say("no port: %v", err)
		end()
	}
	// The words of the console and of the port are different on purpose: a test can tell the two apart.
	say("test guest is up")
	send(port, "hello")
	lines := bufio.NewScanner(port)
	if !lines.Scan() {
		say("the host closed the port: %v", lines.Err())
		end()
	}
	_, script, _ := strings.Cut(lines.Text(), " ")
	run(script, port, lines)
	end()
}

// run does what the script says. Without a script it reports that it started and obeys the first order.
func run(script string, port *os.File, lines *bufio.Scanner) {
	switch {
	case script == "panic":
		os.Exit(7) // PID 1 ends: the kernel panics
	case script == "job":
		send(port, "report started")
		send(port, "report took_job")
		send(port, "report job_done")
		send(port, "report runner_exited")
		return
	case script == "flood-console":
		line := strings.Repeat("x", 200)
		for range 4000 {
			say("%s", line)
		}
	case script == "flood-reports":
		for i := range 5000 {
			send(port, fmt.Sprintf("report notice %d %s", i, strings.Repeat("y", 500)))
		}
	case script == "eat-memory":
		for {
			b := make([]byte, 16<<20)
			for i := range b {
				b[i] = 1
			}
			kept = append(kept, b)
		}
	case script == "disk":
		send(port, "report notice "+disk())
	case script == "fill-disk":
		fillDisk()
	case script == "facts":
		send(port, "report notice "+facts())
	}
	linkUp("eth0")
	send(port, "report started")
	for lines.Scan() {
		order, ok := strings.CutPrefix(lines.Text(), "order ")
		if ok {
			send(port, "report notice obeyed "+order)
			send(port, "report runner_exited "+order)
			return
		}
	}
}

var kept [][]byte

// disk writes to the root disk, reads back, and tells the disk's size in bytes.
func disk() string {
	f, err := os.OpenFile("/dev/vda", os.O_RDWR, 0)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		return err.Error()
	}
	if _, err := f.WriteAt([]byte("written by the guest"), 0); err != nil {
		return err.Error()
	}
	if err := f.Sync(); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("disk %d", size)
}

// fillDisk writes to all of the root disk.
func fillDisk() {
	f, err := os.OpenFile("/dev/vda", os.O_RDWR|syscall.O_DIRECT, 0)
	if err != nil {
		say("opening the disk: %v", err)
		return
	}
	defer f.Close()
	block, err := syscall.Mmap(-1, 0, 1<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE) // aligned
	if err != nil {
		say("%v", err)
		return
	}
	for i := range block {
		block[i] = byte(i%251) + 1 // what is all zeros takes no room
	}
	for at := int64(0); ; at += int64(len(block)) {
		if _, err := f.WriteAt(block, at); err != nil {
			say("at %d: %v", at, err)
			return
		}
	}
}

// facts tells what the machine looks like from within.
func facts() string {
	cpus, _ := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*")
	var info syscall.Sysinfo_t
	_ = syscall.Sysinfo(&info)
	rng, _ := os.ReadFile("/sys/class/misc/hw_random/rng_current")
	clock, _ := os.ReadFile("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	_, balloon := os.Stat("/sys/bus/virtio/drivers/virtio_balloon/virtio0")
	begin := time.Now()
	return fmt.Sprintf("cpus=%d memory=%dMiB rng=%s clock=%s balloon=%t wall=%d", len(cpus), info.Totalram>>20,
		strings.TrimSpace(string(rng)), strings.TrimSpace(string(clock)), balloon == nil, begin.Unix())
}

func loadModules() {
	order, err := os.ReadFile("/modules/order")
	if err != nil {
		say("no modules: %v", err)
		return
	}
	for _, name := range strings.Fields(string(order)) {
		f, err := os.Open("/modules/" + name)
		if err != nil {
			continue // built in, or not in this kernel
		}
		empty := []byte{0}
		const finitModule = 313 // finit_module(2) on x86-64
		_, _, errno := syscall.Syscall(finitModule, f.Fd(), uintptr(unsafe.Pointer(&empty[0])), 0)
		if errno != 0 && errno != syscall.EEXIST {
			say("module %s: %v", name, errno)
		}
		_ = f.Close()
	}
}

// openPort finds a virtio port by the name that the host gave it. Devices are found a moment after the driver is
// loaded, so it looks for up to ten seconds.
func openPort(name string) (*os.File, error) {
	for range 1000 {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, path := range names {
			if b, _ := os.ReadFile(path); strings.TrimSpace(string(b)) == name {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(path)), os.O_RDWR, 0)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("there is no port named %s", name)
}

// linkUp turns a network interface on; the kernel then sends frames by itself.
func linkUp(name string) {
	s, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return
	}
	defer syscall.Close(s)
	var req struct {
		name  [16]byte
		flags uint16
		_     [22]byte
	}
	copy(req.name[:15], name)
	req.flags = syscall.IFF_UP | syscall.IFF_RUNNING
	_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, uintptr(s), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&req)))
}

func send(port *os.File, line string) { _, _ = port.WriteString(line + "\n") }

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// end turns the machine off. A restart ends qemu too (-no-reboot), on machines that have no power switch.
func end() {
	syscall.Sync()
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
	select {}
}
