package flintlocktest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/firerunner/firerunner/proto/flintlock/types"
)

func TestULID(t *testing.T) {
	// The time part of the specification's own example, and all bits of randomness set.
	uid, err := newULID(time.UnixMilli(1469918176385), bytes.NewReader(bytes.Repeat([]byte{0xff}, 10)))
	require.NoError(t, err)
	require.Equal(t, "01ARYZ6S41ZZZZZZZZZZZZZZZZ", uid)
	_, err = newULID(time.Now(), iotest.ErrReader(io.ErrNoProgress))
	require.ErrorIs(t, err, io.ErrNoProgress)
}

func TestMetadataHandler(t *testing.T) {
	srv := httptest.NewServer(MetadataHandler(map[string]string{"meta-data": "instance-id: x\n", "a": "b", "with/slash": "x"}))
	defer srv.Close()
	for name, tc := range map[string]struct {
		method, path, accept string
		code                 int
		want                 string
	}{
		"value":    {"GET", "/latest/meta-data", "", 200, "instance-id: x\n"},
		"slash":    {"GET", "/latest/a/", "", 200, "b"},
		"folder":   {"GET", "/latest/", "", 200, "a\nmeta-data\nwith/slash"},
		"root":     {"GET", "/", "", 200, "latest/"},
		"json":     {"GET", "/latest/a", "application/json", 200, "\"b\"\n"},
		"json all": {"GET", "/latest", "application/json", 200, `{"a":"b","meta-data":"instance-id: x\n","with/slash":"x"}` + "\n"},
		"none":     {"GET", "/latest/none", "", 404, "Resource not found: /latest/none.\n"},
		"other":    {"GET", "/other", "", 404, "Resource not found: /other.\n"},
		"no path":  {"GET", "/latest/with/slash", "", 404, "Resource not found: /latest/with/slash.\n"},
		"PUT":      {"PUT", "/latest/a", "", 405, "Not allowed HTTP method.\n"},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequest(tc.method, srv.URL+tc.path, nil)
			require.NoError(t, err)
			req.Header.Set("Accept", tc.accept)
			answer, err := srv.Client().Do(req)
			require.NoError(t, err)
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			require.NoError(t, err)
			require.Equal(t, tc.code, answer.StatusCode)
			require.Equal(t, tc.want, string(body))
		})
	}
}

// TestMetadataWire reaches the metadata service over frames, as a guest does, and nothing else.
func TestMetadataWire(t *testing.T) {
	near, far, err := wirePair()
	require.NoError(t, err)
	wire, err := net.FileConn(far)
	require.NoError(t, err)
	far.Close()
	ended := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	go func() { ended <- serveMetadata(ctx, near, map[string]string{"a": "b"}, slog.New(slog.DiscardHandler)) }()

	guest := channel.New(64, metadataMTU, tcpip.LinkAddress("\xaa\xff\x00\x00\x00\x01"))
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	require.Nil(t, s.CreateNIC(1, ethernet.New(guest)))
	at := tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4([4]byte{169, 254, 0, 1}), PrefixLen: 16}
	require.Nil(t, s.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: at}, stack.AddressProperties{}))
	s.SetRouteTable([]tcpip.Route{{Destination: at.Subnet(), NIC: 1}})
	sending, stop := context.WithCancel(ctx)
	done := make(chan struct{}, 2)
	go func() { sendFrames(sending, wire, guest); done <- struct{}{} }()
	go func() { _ = receiveFrames(wire, guest); done <- struct{}{} }()

	dial := func(ip [4]byte, port uint16, limit time.Duration) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return gonet.DialContextTCP(ctx, s, tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(ip), Port: port}, ipv4.ProtocolNumber)
	}
	c, err := dial([4]byte{169, 254, 169, 254}, 80, 10*time.Second)
	require.NoError(t, err)
	fmt.Fprint(c, "GET /latest/a HTTP/1.0\r\n\r\n")
	answer, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Contains(t, string(answer), "200 OK")
	require.True(t, strings.HasSuffix(string(answer), "\r\nb"))
	require.NoError(t, c.Close())
	_, err = dial([4]byte{169, 254, 169, 254}, 22, 10*time.Second)
	require.ErrorContains(t, err, "refused")
	_, err = dial([4]byte{169, 254, 169, 253}, 80, 100*time.Millisecond)
	require.Error(t, err)
	// Frames that are too short or too long to be any are passed over.
	for _, size := range []int{0, 5, metadataMTU + 1} {
		_, err = wire.Write(append(binary.BigEndian.AppendUint32(nil, uint32(size)), make([]byte, size)...))
		require.NoError(t, err)
	}
	c, err = dial([4]byte{169, 254, 169, 254}, 80, 10*time.Second)
	require.NoError(t, err)
	require.NoError(t, c.Close())

	stop()
	wire.Close()
	<-done
	<-done
	s.Destroy()
	require.NoError(t, <-ended)
}

func TestFramesErrTooLong(t *testing.T) {
	in := bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff})
	require.ErrorIs(t, receiveFrames(in, channel.New(1, metadataMTU, "")), errFrameTooLong)
}

// FuzzFrames: whatever the stream claims, at most one frame's memory is spent, and reading ends.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 2, 1, 2, 0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, stream []byte) {
		in := bytes.NewReader(stream)
		for {
			frame, err := readFrame(in)
			if err != nil {
				return
			}
			require.LessOrEqual(t, len(frame), len(stream))
		}
	})
}

func TestKernelLine(t *testing.T) {
	srv, err := Start(Config{Dir: t.TempDir()})
	require.NoError(t, err)
	defer srv.Close()
	spec := &types.MicroVMSpec{
		Kernel: &types.Kernel{Cmdline: map[string]string{"quiet": "", "panic": "-1"}, AddNetworkConfig: true},
		Interfaces: []*types.NetworkInterface{
			{DeviceId: "eth0", GuestMac: proto.String(MetadataMAC), Address: &types.StaticAddress{Address: metadataAddress}},
			{DeviceId: "eth1", Address: &types.StaticAddress{Address: "10.0.0.2/24", Gateway: proto.String("10.0.0.1/24"), Nameservers: []string{"10.0.0.1"}}},
			{DeviceId: "eth2"},
		},
		RootVolume: &types.Volume{IsReadOnly: true},
	}
	lines := map[string]bool{}
	for range 10 {
		lines[srv.kernelLine(spec)] = true
	}
	require.Greater(t, len(lines), 1, "the order is random")
	line := srv.kernelLine(spec)
	require.True(t, strings.HasSuffix(line, " root=/dev/vda ro"))
	words := strings.Fields(line)
	for _, want := range []string{"quiet", "panic=-1", "console=ttyS0", "reboot=k", "pci=off", "i8042.noaux", "ds=nocloud-net;s=http://169.254.169.254/latest/"} {
		require.Contains(t, words, want)
	}
	require.NotContains(t, words, "panic=1")
	for _, w := range words {
		if text, ok := strings.CutPrefix(w, "network-config="); ok {
			config, err := base64.StdEncoding.DecodeString(text)
			require.NoError(t, err)
			require.Equal(t, `ethernets:
    eth0:
        addresses:
            - 169.254.0.1/16
        match:
            macaddress: AA:FF:00:00:00:01
        set-name: eth0
    eth1:
        addresses:
            - 10.0.0.2/24
        gateway4: 10.0.0.1
        match:
            name: eth1
        nameservers:
            addresses:
                - 10.0.0.1
    eth2:
        dhcp4: true
        match:
            name: eth2
version: 2
`, string(config))
			return
		}
	}
	t.Fatal("no network-config")
}

func TestBoundedWriter(t *testing.T) {
	var b bytes.Buffer
	w := &boundedWriter{to: &b, room: 3}
	for range 3 {
		n, err := w.Write([]byte("ab"))
		require.NoError(t, err)
		require.Equal(t, 2, n)
	}
	require.Equal(t, "aba", b.String())
}

func TestMAC(t *testing.T) {
	require.NotEqual(t, macOf("01ARYZ6S41ZZZZZZZZZZZZZZZZ", 1), macOf("01ARYZ6S41ZZZZZZZZZZZZZZZZ", 2))
	for _, uid := range []string{"", "x", "01ARYZ6S41ZZZZZZZZZZZZZZZY"} {
		_, err := net.ParseMAC(macOf(uid, 0))
		require.NoError(t, err)
	}
}

func TestQEMUArguments(t *testing.T) {
	m := Machine{UID: "U", VCPUs: 2, MemoryMiB: 1024, Kernel: "/k", Initrd: "/i", Cmdline: "quiet", Disks: []Disk{
		{Layer: "/a,b"}, {Layer: "/c", ReadOnly: true},
	}}
	wires := []wire{{mac: "m0"}, {tap: "fltap0", mac: "m1"}, {mac: "m2"}}
	line := strings.Join(qemuArguments(m, wires, "tcg", 123), " ")
	for _, want := range []string{
		"-name U -M microvm", "-m 1024 -smp 2", "-kernel /k", "-initrd /i", "-append quiet reboot=t tsc_early_khz=123 tsc=reliable",
		"file=/a,,b -device virtio-blk-device,drive=disk0", "file=/c,readonly=on",
		"-netdev stream,id=net0,server=off,addr.type=fd,addr.str=3 -device virtio-net-device,netdev=net0,mac=m0",
		"-netdev tap,id=net1,ifname=fltap0,script=no,downscript=no -device virtio-net-device,netdev=net1,mac=m1",
		"-netdev stream,id=net2,server=off,addr.type=fd,addr.str=4",
	} {
		require.Contains(t, line, want)
	}
	line = strings.Join(qemuArguments(Machine{}, nil, "kvm", 0), " ")
	require.Contains(t, line, "-accel kvm")
	require.NotContains(t, line, "tsc")
}

func TestQEMUErr(t *testing.T) {
	m := Machine{UID: "x", Dir: t.TempDir(), Interfaces: []Interface{{DeviceID: "eth0", Metadata: true}, {DeviceID: "eth1"}}}
	_, err := (&QEMU{Binary: "/does/not/exist"}).Start(t.Context(), m)
	require.ErrorContains(t, err, "starting qemu")
	refuses := func(Machine, Interface) (Link, error) { return Link{}, io.ErrClosedPipe }
	_, err = (&QEMU{Network: refuses}).Start(t.Context(), m)
	require.ErrorIs(t, err, io.ErrClosedPipe)
	m.Disks = []Disk{{ID: "root", Base: "/b", Layer: "/does/not/exist"}}
	_, err = (&QEMU{Img: "/does/not/exist"}).Start(t.Context(), m)
	require.ErrorContains(t, err, "layer of disk root")
	m.Dir += "/none"
	m.Disks = nil
	_, err = (&QEMU{}).Start(t.Context(), m)
	require.ErrorContains(t, err, "console")
}
