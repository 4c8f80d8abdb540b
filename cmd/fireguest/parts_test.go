package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
)

func TestModulesOK(t *testing.T) {
	dir, sys := t.TempDir(), t.TempDir()
	write := func(path, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	write(dir+"/list", "virtio.ko always\n\nvirtio_pci.ko pci\nvirtio_blk.ko virtio:2\nfailover.ko virtio:19,virtio:1\nvsock.ko virtio:19\nodd.ko virtio:x\n")
	write(sys+"/bus/virtio/devices/virtio0/device", "0x0002\n")
	write(sys+"/bus/virtio/devices/virtio1/device", "0x0001\n")
	write(sys+"/bus/virtio/devices/virtio2/device", "odd\n")
	var loaded []string
	l := loader{dir: dir, sys: sys, load: func(path string) error { loaded = append(loaded, filepath.Base(path)); return nil }}
	require.NoError(t, l.run())
	require.Equal(t, []string{"virtio.ko", "virtio_blk.ko", "failover.ko"}, loaded)

	write(sys+"/bus/pci/devices/0000:00:00.0/vendor", "x")
	loaded = nil
	require.NoError(t, l.run())
	require.Contains(t, loaded, "virtio_pci.ko")

	l.load = func(string) error { return errors.New("no such symbol") }
	require.ErrorContains(t, l.run(), "load virtio.ko: no such symbol")
	write(dir+"/list", "../../etc/passwd always\n")
	require.ErrorContains(t, l.run(), "line 1")
	l.dir = t.TempDir()
	require.ErrorIs(t, l.run(), os.ErrNotExist)
	require.Error(t, loadModule(filepath.Join(dir, "list")))
	require.Error(t, loadModule(filepath.Join(dir, "none")))
}

func TestFindUserOK(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passwd")
	require.NoError(t, os.WriteFile(path, []byte("root:x:0:0:root:/root:/bin/bash\nci:x:1000:1001:CI:/home/ci:/bin/bash\nbad:x:1:2\nzero:x:0:0::/:/\n"), 0o644))
	user, err := findUser(path, "ci")
	require.NoError(t, err)
	require.Equal(t, account{"ci", 1000, 1001, "/home/ci"}, user)
	for _, name := range []string{"bad", "zero", "none"} {
		_, err := findUser(path, name)
		require.Error(t, err, name)
	}
	_, err = findUser(path+"none", "ci")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestOpenPortOK(t *testing.T) {
	sys, dev := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{"vport0p0": "other\n", "vport0p1": portName + "\n"} {
		require.NoError(t, os.MkdirAll(filepath.Join(sys, "class/virtio-ports", name), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(sys, "class/virtio-ports", name, "name"), []byte(text), 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(dev, name), nil, 0o666))
	}
	port, err := openPort(sys, dev, time.Second)
	require.NoError(t, err)
	defer port.Close()
	require.Equal(t, "vport0p1", filepath.Base(port.Name()))
	info, err := port.Stat()
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	_, err = openPort(sys, t.TempDir(), time.Millisecond) // the device's file does not come
	require.ErrorContains(t, err, "no port")
}

func TestRootDeviceOK(t *testing.T) {
	require.Equal(t, "/dev/vda", rootDevice("quiet panic=-1"))
	require.Equal(t, "/dev/sda1", rootDevice("quiet root=/dev/sda1 rw"))
	require.Equal(t, "/dev/vda", rootDevice("root=UUID=1234"))
	require.NoError(t, waitFor(t.TempDir(), 0))
	require.ErrorIs(t, waitFor(filepath.Join(t.TempDir(), "none"), time.Millisecond), os.ErrNotExist)
}

func TestNetlinkMessagesOK(t *testing.T) {
	// Written by the kernel's own structures, little-endian: ifinfomsg + IFLA_ADDRESS + IFLA_MTU.
	mac, _ := net.ParseMAC("52:54:00:12:34:56")
	require.Equal(t, []byte{
		0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0,
		10, 0, 1, 0, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 0, 0,
		8, 0, 4, 0, 0xdc, 5, 0, 0,
	}, linkMessage(2, true, mac, 1500))
	require.Equal(t, []byte{
		2, 24, 0, 0, 2, 0, 0, 0, 8, 0, 2, 0, 10, 42, 0, 2, 8, 0, 1, 0, 10, 42, 0, 2,
	}, addressMessage(2, netip.MustParsePrefix("10.42.0.2/24")))
	require.Equal(t, []byte{
		2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0, 8, 0, 5, 0, 10, 42, 0, 1, 8, 0, 4, 0, 2, 0, 0, 0,
	}, defaultRouteMessage(2, netip.MustParseAddr("10.42.0.1")))
	require.Equal(t, byte(unix.AF_INET6), family(netip.MustParseAddr("::1")))
}

// The kernel's own answers, in a network namespace of this test's own.
func TestConfigureNetworkOK(t *testing.T) {
	inNamespace(t, func() {
		require.NoError(t, configureNetwork("none", firerunner.GuestNetwork{}))
		lo, err := net.InterfaceByName("lo")
		require.NoError(t, err)
		require.NotZero(t, lo.Flags&net.FlagUp)
		// A real interface needs a driver; the loopback interface takes an address as well.
		require.NoError(t, configureNetwork("lo", firerunner.GuestNetwork{Address: "10.42.0.2/24", MTU: 1400}))
		addresses, err := lo.Addrs()
		require.NoError(t, err)
		require.Contains(t, fmt.Sprint(addresses), "10.42.0.2/24")
		require.NoError(t, configureNetwork("lo", firerunner.GuestNetwork{Address: "10.42.0.2/24"}), "a second time")
	})
}

func TestConfigureNetworkErrInvalid(t *testing.T) {
	inNamespace(t, func() {
		for want, n := range map[string]firerunner.GuestNetwork{
			"guest address": {Address: "10.42.0.2"},
			"MAC":           {Address: "10.42.0.2/24", MAC: "x"},
			"guest gateway": {Address: "10.42.0.2/24", Gateway: "x"},
			"route by 9.9":  {Address: "10.42.0.2/24", Gateway: "9.9.9.9"},
		} {
			require.ErrorContains(t, configureNetwork("lo", n), want)
		}
		require.ErrorContains(t, configureNetwork("none", firerunner.GuestNetwork{Address: "10.42.0.2/24"}), "find interface none")
	})
}

func TestSeedErrInvalid(t *testing.T) {
	require.Error(t, addEntropy(make([]byte, 8)))
	require.Error(t, addEntropy(make([]byte, 1000)))
	require.NoError(t, setClock(time.Now())) // near enough: nothing is set
}

func TestConsoleOK(t *testing.T) {
	var out strings.Builder
	c := &console{w: &out, uptime: func() time.Duration { return 1234 * time.Millisecond }}
	c.phase("hello")
	c.problem(errors.New("no disk"))
	require.Equal(t, "fireguest: hello 1.234\nfireguest: error: no disk 1.234\n", out.String())
	require.Positive(t, uptime())
	require.NotEmpty(t, agentVersion())
	require.NotEmpty(t, hello().Kernel)
}
