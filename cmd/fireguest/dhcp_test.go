package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func testMAC() net.HardwareAddr { return net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3} }

// dhcpAnswerTo is what a server says to a message; options come after those that it needs.
func dhcpAnswerTo(request []byte, kind byte, address string, options ...byte) []byte {
	b := make([]byte, dhcpHead)
	b[0], b[1], b[2] = 2, 1, 6
	copy(b[4:8], request[4:8])
	copy(b[16:20], netip.MustParseAddr(address).AsSlice())
	copy(b[28:34], request[28:34])
	copy(b[236:], dhcpCookie[:])
	b = append(b, 0, optionKind, 1, kind, optionServer, 4, 10, 0, 0, 1, optionMask, 4, 255, 255, 255, 0)
	return append(append(b, options...), optionEnd)
}

var dhcpOptions = []byte{
	optionRouter, 8, 10, 0, 0, 1, 10, 0, 0, 9, optionDNS, 4, 10, 0, 0, 2, optionMTU, 2, 0x05, 0xdc, optionLease, 4, 0, 0, 0x0e, 0x10, 99, 1, 7,
}

// dhcpServer is a server at the other end of a dhcpConn: what it is asked, it answers by answer.
type dhcpServer struct {
	answer func(request []byte) [][]byte
	out    [][]byte
	closed bool
}

func (s *dhcpServer) send(b []byte) error { s.out = append(s.out, s.answer(b)...); return nil }
func (s *dhcpServer) close()              { s.closed = true }
func (s *dhcpServer) receive(b []byte, atMost time.Duration) (int, error) {
	if len(s.out) == 0 {
		time.Sleep(atMost)
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(b, s.out[0])
	s.out = s.out[1:]
	return n, nil
}

func kindOf(request []byte) byte { return request[dhcpHead+2] }

func TestDHCPOK(t *testing.T) {
	asked := []byte{}
	server := &dhcpServer{answer: func(request []byte) [][]byte {
		asked = append(asked, kindOf(request))
		require.Len(t, request, dhcpLeast)
		require.Equal(t, byte(0x80), request[10])
		if len(asked) == 1 {
			return nil // lost
		}
		if kindOf(request) == dhcpDiscover {
			other := dhcpAnswerTo(request, dhcpOffer, "10.0.0.66")
			other[4] ^= 1 // somebody else's
			return [][]byte{other, {1, 2, 3}, dhcpAnswerTo(request, dhcpOffer, "10.0.0.5", dhcpOptions...)}
		}
		require.Contains(t, string(request), string([]byte{optionAddress, 4, 10, 0, 0, 5, optionServer, 4, 10, 0, 0, 1}))
		return [][]byte{dhcpAnswerTo(request, dhcpACK, "10.0.0.6"), dhcpAnswerTo(request, dhcpACK, "10.0.0.5", dhcpOptions...)}
	}}
	c := &dhcpClient{link: net.Interface{Name: "eth1", HardwareAddr: testMAC()}, dial: func() (dhcpConn, error) { return server, nil }, wait: 20 * time.Millisecond}
	got, err := c.get(t.Context())
	require.NoError(t, err)
	require.Equal(t, firerunner.GuestNetwork{Address: "10.0.0.5/24", Gateway: "10.0.0.1", DNS: "10.0.0.2", MTU: 1500}, got.network())
	require.Equal(t, time.Hour, got.time)
	require.Equal(t, []byte{dhcpDiscover, dhcpDiscover, dhcpRequest}, asked)
	require.True(t, server.closed)
}

func TestDHCPErr(t *testing.T) {
	link := net.Interface{Name: "eth1", HardwareAddr: testMAC()}
	c := &dhcpClient{link: link, wait: time.Millisecond, dial: func() (dhcpConn, error) { return nil, errors.New("no socket") }}
	_, err := c.get(t.Context())
	require.ErrorContains(t, err, "no socket")
	for want, answer := range map[string]func([]byte) [][]byte{
		"no answer": func([]byte) [][]byte { return nil },
		"refuses":   func(r []byte) [][]byte { return [][]byte{dhcpAnswerTo(r, dhcpNAK, "0.0.0.0")} },
		"neither":   func(r []byte) [][]byte { return [][]byte{dhcpAnswerTo(r, dhcpOffer, "169.254.7.7")} },
		"cut off": func(r []byte) [][]byte {
			return [][]byte{append(dhcpAnswerTo(r, dhcpOffer, "10.0.0.5")[:dhcpHead+3], 1, 200)}
		},
	} {
		c.dial = func() (dhcpConn, error) { return &dhcpServer{answer: answer}, nil }
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := c.get(ctx)
		cancel()
		require.ErrorContains(t, err, "by DHCP on eth1")
		if want != "no answer" && want != "refuses" {
			require.ErrorContains(t, err, want)
		}
	}
	require.NotNil(t, newDHCPClient(link).dial)
	inNamespace(t, func() {
		_, err := dialDHCP("none0")
		require.Error(t, err)
		conn, err := dialDHCP("lo")
		require.NoError(t, err)
		_, err = conn.receive(make([]byte, 10), time.Millisecond)
		require.Error(t, err)
		require.Error(t, conn.send([]byte{1}), "the interface is down")
		conn.close()
	})
}

// A lease without a time is for ever; of others the half is waited for.
func TestDHCPKeep(t *testing.T) {
	c := &dhcpClient{link: net.Interface{HardwareAddr: testMAC()}, dial: func() (dhcpConn, error) { panic("not yet") }}
	c.keep(t.Context(), lease{}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.keep(ctx, lease{time: time.Hour}, nil)

	l := lease{address: netip.MustParsePrefix("10.0.0.5/24"), time: 10 * time.Minute}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		var asked []time.Duration
		server := &dhcpServer{answer: func(request []byte) [][]byte {
			asked = append(asked, time.Since(began))
			switch len(asked) {
			case 1: // for an hour more
				return [][]byte{dhcpAnswerTo(request, dhcpACK, "10.0.0.5", dhcpOptions...)}
			case 2:
				return nil
			}
			cancel()
			return nil
		}}
		c.dial = func() (dhcpConn, error) { return server, nil }
		var problems []error
		c.keep(ctx, l, func(err error) { problems = append(problems, err) })
		require.Equal(t, []time.Duration{5 * time.Minute, 35 * time.Minute, 65*time.Minute + 10*time.Second}, asked)
		require.Len(t, problems, 1)
		require.ErrorContains(t, problems[0], "no answer")
	})
	request := dhcpMessage(dhcpRequest, 7, testMAC(), l, true)
	require.Equal(t, []byte{10, 0, 0, 5}, request[12:16])
	require.Zero(t, request[10])
	require.Equal(t, byte(optionList), request[dhcpHead+3], "neither address nor server are named")
}

// serveDHCP answers what comes over a wire: Ethernet, IP and UDP around the messages.
func serveDHCP(wire *os.File, answer func([]byte) []byte) {
	frame := make([]byte, 2048)
	for {
		n, err := wire.Read(frame)
		if err != nil {
			return
		}
		const head = 14 + 20 + 8
		if n < head+dhcpHead || frame[12] != 8 || frame[13] != 0 || frame[14+9] != 17 || binary.BigEndian.Uint16(frame[36:]) != 67 {
			continue
		}
		payload := answer(frame[head:n])
		out := append([]byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 0}, 0x45, 0)
		out = binary.BigEndian.AppendUint16(out, uint16(28+len(payload)))
		out = append(out, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 255, 255, 255, 255)
		sum := uint32(0)
		for i := 14; i < 34; i += 2 {
			sum += uint32(binary.BigEndian.Uint16(out[i:]))
		}
		binary.BigEndian.PutUint16(out[24:], ^uint16(sum+sum>>16))
		out = append(out, 0, 67, 0, 68)
		out = binary.BigEndian.AppendUint16(out, uint16(8+len(payload)))
		out = append(out, 0, 0)
		_, _ = wire.Write(append(out, payload...))
	}
}

// The kernel takes part in this one: an interface without an address sends and hears broadcasts.
func TestSetUpOK(t *testing.T) {
	requireTap(t)
	con := &console{w: &consoleLog{}, uptime: uptime}
	inNamespace(t, func() {
		link, wire := tapFile(t, "eth1", "52:54:00:01:02:03")
		go serveDHCP(wire, func(request []byte) []byte {
			return dhcpAnswerTo(request, map[byte]byte{dhcpDiscover: dhcpOffer, dhcpRequest: dhcpACK}[kindOf(request)], "10.0.0.5", dhcpOptions...)
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		got, err := setUp(ctx, con, link, firerunner.GuestNetwork{DNS: "10.0.0.53"})
		require.NoError(t, err)
		require.Equal(t, firerunner.GuestNetwork{Address: "10.0.0.5/24", Gateway: "10.0.0.1", DNS: "10.0.0.53", MTU: 1500}, got)
		addresses, err := link.Addrs()
		require.NoError(t, err)
		require.Contains(t, fmt.Sprint(addresses), "10.0.0.5/24")

		fixed := firerunner.GuestNetwork{Address: "10.0.0.7/24", Gateway: "10.0.0.1"}
		got, err = setUp(ctx, con, link, fixed)
		require.NoError(t, err)
		require.Equal(t, fixed, got)

		cancel()
		_, err = setUp(ctx, con, link, firerunner.GuestNetwork{})
		require.ErrorContains(t, err, "by DHCP on eth1")
		require.NoError(t, wire.Close())
	})
}

func FuzzParseDHCP(f *testing.F) {
	request := dhcpMessage(dhcpDiscover, 0x01020304, testMAC(), lease{}, false)
	f.Add(dhcpAnswerTo(request, dhcpOffer, "10.0.0.5", dhcpOptions...))
	f.Add(dhcpAnswerTo(request, dhcpNAK, "0.0.0.0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 34 { // let the fuzzer into the options
			binary.BigEndian.PutUint32(b[4:], 0x01020304)
			copy(b[28:34], testMAC())
		}
		l, err := parseDHCP(b, 0x01020304, testMAC())
		if err != nil || l.kind == dhcpNAK {
			return
		}
		require.True(t, l.address.IsValid())
		require.Positive(t, l.address.Bits())
		require.False(t, metadataNet().Contains(l.address.Addr()))
		require.False(t, l.gateway.IsValid() && metadataNet().Contains(l.gateway))
		_, err = netip.ParsePrefix(l.network().Address)
		require.NoError(t, err)
	})
}
