// Package deploy holds what an operator installs on hosts; its tests show that it does what it says.
package deploy

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Namespaces of the test: a host with its bridge, two microVMs on it, and the world.
const (
	host  = "frfw-host"
	vm1   = "frfw-vm1"
	vm2   = "frfw-vm2"
	world = "frfw-world"
)

// run is a command that must work.
func run(t *testing.T, words ...string) {
	t.Helper()
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
	require.NoError(t, err, "%s: %s", strings.Join(words, " "), out)
}

// in does something in a network namespace.
func in(t *testing.T, namespace string, do func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		file, err := os.Open("/run/netns/" + namespace)
		if err == nil {
			defer file.Close()
			if err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err == nil {
				do()
			}
		}
		done <- err
	}()
	require.NoError(t, <-done)
}

// TestFirewall lays a host with two microVMs and a world around it, loads the rules as they are shipped, and tries.
func TestFirewall(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	for _, n := range []string{host, vm1, vm2, world} {
		_ = exec.Command("ip", "netns", "del", n).Run() // of a test that was killed
		run(t, "ip", "netns", "add", n)
		t.Cleanup(func() { run(t, "ip", "netns", "del", n) })
		run(t, "ip", "-n", n, "link", "set", "lo", "up")
	}
	run(t, "ip", "-n", host, "link", "add", "frbr0", "type", "bridge")
	run(t, "ip", "-n", host, "addr", "add", "10.200.0.1/22", "dev", "frbr0")
	run(t, "ip", "-n", host, "link", "set", "frbr0", "up")
	for i, vm := range []string{vm1, vm2} {
		tap := fmt.Sprintf("fltap000000%d", i+1)
		run(t, "ip", "-n", host, "link", "add", tap, "type", "veth", "peer", "name", "eth1", "netns", vm)
		run(t, "ip", "-n", host, "link", "set", tap, "master", "frbr0", "up")
		run(t, "ip", "-n", vm, "addr", "add", fmt.Sprintf("10.200.0.%d/22", i+2), "dev", "eth1")
		run(t, "ip", "-n", vm, "link", "set", "eth1", "up")
		run(t, "ip", "-n", vm, "route", "add", "default", "via", "10.200.0.1")
	}
	run(t, "ip", "-n", host, "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", world)
	run(t, "ip", "-n", host, "addr", "add", "198.51.100.1/24", "dev", "up0")
	run(t, "ip", "-n", host, "link", "set", "up0", "up")
	run(t, "ip", "-n", world, "addr", "add", "198.51.100.2/24", "dev", "eth0")
	run(t, "ip", "-n", world, "link", "set", "eth0", "up")
	run(t, "ip", "-n", world, "route", "add", "10.200.0.0/22", "via", "198.51.100.1")
	places := []string{"192.0.2.10", "192.0.2.20", "192.0.2.53", "203.0.113.7", "10.9.9.9", "172.20.0.9", "192.168.7.7", "100.64.1.1"}
	for _, address := range places {
		run(t, "ip", "-n", world, "addr", "add", address+"/32", "dev", "lo")
		run(t, "ip", "-n", host, "route", "add", address+"/32", "via", "198.51.100.2")
	}
	in(t, host, func() {
		require.NoError(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644))
	})

	// Somebody listens everywhere, on every port that is tried.
	ports := []int{22, 53, 80, 443, 8443, 9090}
	for _, n := range []string{host, vm2, world} {
		in(t, n, func() {
			for _, port := range ports {
				l, err := net.Listen("tcp", fmt.Sprintf("0.0.0.0:%d", port))
				require.NoError(t, err)
				t.Cleanup(func() { _ = l.Close() })
			}
		})
	}
	reaches := func(from, to string) (ok bool) {
		in(t, from, func() {
			conn, err := net.DialTimeout("tcp", to, 700*time.Millisecond)
			if ok = err == nil; ok {
				_ = conn.Close()
			}
		})
		return ok
	}
	open := []string{"192.0.2.10:443", "192.0.2.10:22", "192.0.2.20:8443", "192.0.2.53:53", "203.0.113.7:443", "203.0.113.7:9090"}
	shut := []string{
		"10.200.0.3:22", "10.200.0.3:80", // the other microVM
		"10.200.0.1:22", "10.200.0.1:9090", "198.51.100.1:9090", // the host, flintlockd on it
		"10.9.9.9:443", "172.20.0.9:443", "192.168.7.7:80", "100.64.1.1:80", // private networks
	}
	for _, to := range append(open, shut...) { // without rules everything is open: the test can fail
		require.True(t, reaches(vm1, to), "%s without rules", to)
	}
	for range 2 { // loading them again changes nothing
		run(t, "ip", "netns", "exec", host, "nft", "-f", "firerunner.nft")
	}
	for _, to := range open {
		require.True(t, reaches(vm1, to), "%s must be open", to)
	}
	for _, to := range shut {
		require.False(t, reaches(vm1, to), "%s must be shut", to)
	}
	require.False(t, reaches(world, "10.200.0.3:22"), "nobody comes in")
	require.True(t, reaches(host, "10.200.0.3:22"), "but the host, which installs over SSH")
}
