// Command guest is what the test's microVM runs: /init of the RAM disk, which loads the drivers and goes to the root
// disk, and there /sbin/init, which reports what it finds on the console and ends the microVM.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	_ = unix.Mount("dev", "/dev", "devtmpfs", 0, "")
	_ = unix.Mount("proc", "/proc", "proc", 0, "")
	_ = unix.Mount("sys", "/sys", "sysfs", 0, "")
	if console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0); err == nil {
		os.Stdout = console
	}
	var err error
	if os.Args[0] == "/sbin/init" {
		err = report()
	} else {
		err = switchRoot()
	}
	if err != nil {
		fmt.Println("TROUBLE", err)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

// switchRoot returns only if it fails.
func switchRoot() error {
	list, err := os.Open("/modules/list")
	if err != nil {
		return err
	}
	for in := bufio.NewScanner(list); in.Scan(); {
		name, condition, _ := strings.Cut(in.Text(), " ")
		if condition == "pci" {
			continue
		}
		f, err := os.Open("/modules/" + name)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	_ = os.Mkdir("/root", 0o700)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if err = unix.Mount("/dev/vda", "/root", "ext4", 0, ""); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("root disk: %w", err)
	}
	if err := unix.Chroot("/root"); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return unix.Exec("/sbin/init", []string{"/sbin/init"}, nil)
}

func report() error {
	boots, _ := os.ReadFile("/boots")
	boots = append(boots, '+')
	if err := os.WriteFile("/boots", boots, 0o600); err != nil {
		return err
	}
	fmt.Printf("BOOTS %s\n", boots)
	kept, err := os.ReadFile("/link/kept")
	fmt.Printf("KEPT %s %v\n", kept, err)
	_, err = os.Stat("/removed")
	fmt.Println("REMOVED", os.IsNotExist(err))
	for _, name := range []string{"eth0", "eth1"} {
		i, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		fmt.Println("MAC", name, i.HardwareAddr)
	}
	if err := address("eth0", [4]byte{169, 254, 0, 1}, [4]byte{255, 255, 0, 0}); err != nil {
		return err
	}
	if err := address("eth1", [4]byte{10, 42, 0, 2}, [4]byte{255, 255, 255, 0}); err != nil {
		return err
	}
	text, err := get("169.254.169.254:80", "/latest/firerunner")
	fmt.Printf("METADATA %q %v\n", text, err)
	_, err = net.DialTimeout("tcp", "169.254.169.254:22", time.Second)
	fmt.Println("OTHER PORT", err != nil)
	_, err = net.DialTimeout("tcp", "169.254.169.253:80", time.Second)
	fmt.Println("OTHER ADDRESS", err != nil)
	if c, err := net.Dial("udp", "10.42.0.1:9"); err == nil { // an ARP request, which the other end looks for
		_, _ = c.Write([]byte("x"))
		time.Sleep(100 * time.Millisecond)
	}
	fmt.Println("DONE")
	return nil
}

func get(at, path string) (string, error) {
	c, err := net.DialTimeout("tcp", at, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", path, at); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(io.LimitReader(c, 64<<10))
	_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	return body, err
}

func address(name string, ip, mask [4]byte) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	set := func(request uint, fill func(*unix.Ifreq) error) error {
		i, err := unix.NewIfreq(name)
		if err == nil {
			err = fill(i)
		}
		if err == nil {
			err = unix.IoctlIfreq(s, request, i)
		}
		return err
	}
	if err := set(unix.SIOCSIFADDR, func(i *unix.Ifreq) error { return i.SetInet4Addr(ip[:]) }); err != nil {
		return err
	}
	if err := set(unix.SIOCSIFNETMASK, func(i *unix.Ifreq) error { return i.SetInet4Addr(mask[:]) }); err != nil {
		return err
	}
	return set(unix.SIOCSIFFLAGS, func(i *unix.Ifreq) error { i.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil })
}
