package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/firerunner/firerunner/internal/flintlocktest"
)

// What each host of the fleet has.
const (
	hosts       = 3
	hostVCPUs   = 8
	hostMemory  = 12288
	hostSlots   = 6
	hostToken   = "the-hosts-token"
	hostRetries = 200 * time.Millisecond
)

// fleet is hosts with an emulated flintlockd, in this process: they outlive every controller.
type fleet struct {
	*guests
	hosts []*flintlocktest.Server
}

func newFleet(dir, gitlab string) (*fleet, error) {
	f := &fleet{guests: newGuests(gitlab)}
	for i := range hosts {
		h, err := flintlocktest.Start(flintlocktest.Config{
			Dir: filepath.Join(dir, hostName(i)), Token: hostToken, RetryDelay: hostRetries, VMM: flintlocktest.Scripted{Guest: f.play},
		})
		if err != nil {
			f.close()
			return nil, err
		}
		f.hosts = append(f.hosts, h)
	}
	return f, nil
}

func (f *fleet) close() {
	for _, h := range f.hosts {
		_ = h.Close()
	}
}

func hostName(i int) string { return fmt.Sprint("h", i+1) }

// config is the fleet's part of a controller's configuration.
func (f *fleet) config(guests int) string {
	digest := "@sha256:" + strings.Repeat("0123456789abcdef", 4)
	var b strings.Builder
	fmt.Fprintf(&b, `driver: flintlock
guest: {host: 127.0.0.1, port: %d, public_address: "127.0.0.1:%d", silent_after: 4s}
flintlock:
  token_file: hosts-token
  tls: {insecure: true}
  kernel_image: registry.example.com/kernel%s
  kernel_file: boot/vmlinux
  rootfs_image: registry.example.com/root%s
  probe_interval: 1s
  probe_timeout: 5s
  lost_after: 20s
hosts:
`, guests, guests, digest, digest)
	for i, h := range f.hosts {
		fmt.Fprintf(&b, "  - {name: %s, endpoint: %q, vcpu: %d, overcommit_cpu: 1, memory_mb: %d, slots: %d, addresses: {range: 10.4%d.0.0/24, gateway: 10.4%d.0.1}}\n",
			hostName(i), h.Addr(), hostVCPUs, hostMemory, hostSlots, i, i)
	}
	return b.String()
}

// kill ends the machine of a microVM from outside; false: there is none that runs.
func (f *fleet) kill(vm string) bool {
	for _, h := range f.hosts {
		for _, has := range h.VMs() {
			if has.ID == vm && has.Running {
				return h.Kill(has.UID)
			}
		}
	}
	return false
}

// left is what is on the hosts, in words.
func (f *fleet) left() (left []string) {
	for i, h := range f.hosts {
		for _, vm := range h.VMs() {
			left = append(left, fmt.Sprintf("microVM %s on %s, %s, running=%t", vm.ID, hostName(i), vm.State, vm.Running))
		}
		if n := h.Running(); n > 0 {
			left = append(left, fmt.Sprintf("%d machines on %s", n, hostName(i)))
		}
	}
	return left
}
