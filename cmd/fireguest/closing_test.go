package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// tap makes an Ethernet interface in this thread's network namespace. Nobody is at its other end.
func tap(t *testing.T, name, mac string) net.Interface {
	t.Helper()
	link, _ := tapFile(t, name, mac)
	return link
}

// tapFile makes one whose other end is a file: each read and each write is a frame.
func tapFile(t *testing.T, name, mac string) (net.Interface, *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	require.NoError(t, err)
	request, err := unix.NewIfreq(name)
	require.NoError(t, err)
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	require.NoError(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
	file := os.NewFile(uintptr(fd), name)
	t.Cleanup(func() { _ = file.Close() })
	link, err := net.InterfaceByName(name)
	require.NoError(t, err)
	hardware, err := net.ParseMAC(mac)
	require.NoError(t, err)
	n, err := dialNetlink()
	require.NoError(t, err)
	defer n.close()
	require.NoError(t, n.do(unix.RTM_NEWLINK, 0, linkMessage(link.Index, false, hardware, 0)))
	link, err = net.InterfaceByName(name)
	require.NoError(t, err)
	return *link, file
}

// reach is what a process hears that connects to the metadata service, by a socket with these options.
func reach(control func(fd int) error) error {
	d := net.Dialer{Timeout: 50 * time.Millisecond, Control: func(_, _ string, c syscall.RawConn) (err error) {
		if ctlErr := c.Control(func(fd uintptr) { err = control(int(fd)) }); ctlErr != nil {
			return ctlErr
		}
		return err
	}}
	conn, err := d.DialContext(context.Background(), "tcp4", metadataAddress+":80")
	if err == nil {
		conn.Close()
	}
	return err
}

func plain(int) error        { return nil }
func noRouting(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DONTROUTE, 1) }

func through(link string) func(int) error {
	return func(fd int) error { return unix.BindToDevice(fd, link) }
}

func requireTap(t *testing.T) {
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("no TUN device on this machine: modprobe tun")
	}
}

func timedOut(err error) bool {
	var late net.Error
	return errors.As(err, &late) && late.Timeout()
}

func unreachable(err error) bool {
	return errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH)
}

func TestCloseMetadataOK(t *testing.T) {
	requireTap(t)
	inNamespace(t, func() {
		service := tap(t, "eth0", metadataMAC)
		tap(t, "eth1", "52:54:00:00:00:02")
		found, job, err := waitLinks(0)
		require.NoError(t, err)
		require.Equal(t, "eth0", found.Name)
		require.Equal(t, "eth1", job.Name)
		require.NoError(t, bringUp(job))
		require.NoError(t, openMetadata(service))
		require.NoError(t, openMetadata(service), "a second time")
		require.True(t, timedOut(reach(plain)), "there is a way, and nobody at its end")

		require.NoError(t, closeMetadata(service))
		require.True(t, unreachable(reach(plain)))
		require.True(t, unreachable(reach(noRouting)))
		require.True(t, unreachable(reach(through("eth0"))))
		addresses, err := service.Addrs()
		require.NoError(t, err)
		require.Empty(t, addresses)
		require.NoError(t, closeMetadata(service), "a second time")
	})
}

func TestBlockMetadataOK(t *testing.T) {
	requireTap(t)
	inNamespace(t, func() {
		// An interface like any other leads there: the route alone says no.
		service := tap(t, "ens3", "52:54:00:00:00:03")
		require.NoError(t, openMetadata(service))
		require.True(t, timedOut(reach(plain)))
		require.NoError(t, blockMetadata())
		require.True(t, unreachable(reach(plain)))
		require.True(t, unreachable(reach(noRouting)))
		require.NoError(t, blockMetadata(), "a second time")

		flintlock := tap(t, "eth0", metadataMAC)
		require.NoError(t, bringUp(flintlock))
		require.NoError(t, blockMetadata())
		require.True(t, unreachable(reach(through("eth0"))))
	})
}

func TestCloseMetadataErr(t *testing.T) {
	inNamespace(t, func() {
		none := net.Interface{Index: 4711, Name: "none"}
		require.ErrorContains(t, openMetadata(none), "bring up none")
		require.ErrorContains(t, closeMetadata(none), "take down none")
		_, _, err := waitLinks(0)
		require.ErrorContains(t, err, "0 network interfaces")
	})
}

func TestChooseLinksOK(t *testing.T) {
	link := func(index int, name, mac string) net.Interface {
		hardware, _ := net.ParseMAC(mac)
		return net.Interface{Index: index, Name: name, HardwareAddr: hardware}
	}
	lo := net.Interface{Index: 1, Name: "lo", Flags: net.FlagLoopback, HardwareAddr: make([]byte, 6)}
	for want, all := range map[string][]net.Interface{
		"eth0 eth1": {lo, link(2, "eth0", "52:54:00:00:00:01"), link(3, "eth1", "52:54:00:00:00:02"), link(4, "eth2", "52:54:00:00:00:03")},
		"eth1 eth0": {lo, link(2, "eth0", "52:54:00:00:00:01"), link(3, "eth1", metadataMAC)},
		"ens3 ens2": {link(3, "ens3", metadataMAC), link(2, "ens2", "52:54:00:00:00:02"), lo},
		"eth0 ens5": {link(7, "ens7", "52:54:00:00:00:02"), link(5, "ens5", "52:54:00:00:00:03"), link(9, "eth0", "52:54:00:00:00:04")},
	} {
		metadata, job, err := chooseLinks(all)
		require.NoError(t, err)
		require.Equal(t, want, metadata.Name+" "+job.Name)
	}
	_, _, err := chooseLinks([]net.Interface{lo, link(2, "eth0", metadataMAC)})
	require.ErrorContains(t, err, "1 network interfaces")
}

func TestLoadNetModulesOK(t *testing.T) {
	dir := t.TempDir()
	for _, file := range netModules[1:] {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, file+".xz"), nil, 0o644))
	}
	inNamespace(t, func() {
		var loaded []string
		require.NoError(t, loadNetModules(dir, func(path string) error { loaded = append(loaded, filepath.Base(path)); return nil }))
		require.Equal(t, []string{"net_failover.ko.xz", "virtio_net.ko.xz"}, loaded)
		require.ErrorContains(t, loadNetModules(dir, func(string) error { return errors.New("odd") }), "load virtio_net.ko.xz: odd")
	})
	require.True(t, strings.HasPrefix(modulesDir(), "/lib/modules/"))
	require.Error(t, loadPackedModule(filepath.Join(dir, "none.ko")))
	require.Error(t, loadPackedModule(filepath.Join(dir, "none.ko.xz")))
	require.Error(t, loadPackedModule(filepath.Join(dir, netModules[2]+".xz")), "no module")
}

func TestEndCommandOK(t *testing.T) {
	require.Equal(t, unix.LINUX_REBOOT_CMD_POWER_OFF, endCommand("console=ttyS0 reboot=t panic=-1", true))
	require.Equal(t, unix.LINUX_REBOOT_CMD_RESTART, endCommand("console=ttyS0 reboot=t panic=-1", false))
	require.Equal(t, unix.LINUX_REBOOT_CMD_RESTART, endCommand("reboot=k panic=1 pci=off", true), "Firecracker")
}
