package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// dhcpConn carries DHCP messages over one interface.
type dhcpConn interface {
	send([]byte) error
	receive(b []byte, atMost time.Duration) (int, error) // an error too when nothing has come by then
	close()
}

// dhcpClient gets an interface its address.
type dhcpClient struct {
	link net.Interface
	dial func() (dhcpConn, error)
	wait time.Duration // for the first answer; doubled with each try
}

func newDHCPClient(link net.Interface) *dhcpClient {
	return &dhcpClient{link: link, dial: func() (dhcpConn, error) { return dialDHCP(link.Name) }, wait: 500 * time.Millisecond}
}

// get asks for a lease until the context ends.
func (c *dhcpClient) get(ctx context.Context) (lease, error) {
	conn, err := c.dial()
	if err != nil {
		return lease{}, fmt.Errorf("open a socket for DHCP: %w", err)
	}
	defer conn.close()
	for wait := c.wait; ; wait = min(2*wait, 4*time.Second) {
		got, err := c.exchange(ctx, conn, dhcpDiscover, lease{}, false, wait)
		if err == nil {
			got, err = c.exchange(ctx, conn, dhcpRequest, got, false, wait)
		}
		if err == nil {
			return got, nil
		}
		if ctx.Err() != nil {
			return lease{}, fmt.Errorf("get an address by DHCP on %s: %w", c.link.Name, err)
		}
	}
}

// exchange sends one message and waits for the answer to it.
func (c *dhcpClient) exchange(ctx context.Context, conn dhcpConn, kind byte, of lease, renew bool, wait time.Duration) (lease, error) {
	var random [4]byte
	if _, err := rand.Read(random[:]); err != nil {
		return lease{}, err
	}
	xid := binary.BigEndian.Uint32(random[:])
	if err := conn.send(dhcpMessage(kind, xid, c.link.HardwareAddr, of, renew)); err != nil {
		return lease{}, err
	}
	want := byte(dhcpOffer)
	if kind == dhcpRequest {
		want = dhcpACK
	}
	answer := make([]byte, dhcpAnswer)
	var odd error
	for end := time.Now().Add(wait); ; {
		left := time.Until(end)
		if err := ctx.Err(); err != nil {
			return lease{}, errors.Join(err, odd)
		}
		if left <= 0 {
			return lease{}, errors.Join(errors.New("no answer"), odd)
		}
		n, err := conn.receive(answer, left)
		if err != nil {
			continue // nothing yet
		}
		got, err := parseDHCP(answer[:n], xid, c.link.HardwareAddr)
		switch {
		case errors.Is(err, errNotOurs):
		case err != nil:
			odd = err
		case got.kind == dhcpNAK:
			return lease{}, errors.New("the server refuses")
		case got.kind == want && (kind == dhcpDiscover || got.address.Addr() == of.address.Addr()):
			return got, nil
		}
	}
}

// keep renews a lease at half its time, for as long as the context lasts. An address that cannot be kept is used all
// the same: a job that runs is worth more than a server that may be gone.
func (c *dhcpClient) keep(ctx context.Context, l lease, problem func(error)) {
	const least = time.Minute
	for l.time > 0 {
		again := time.NewTimer(max(l.time/2, least))
		select {
		case <-ctx.Done():
			again.Stop()
			return
		case <-again.C:
		}
		conn, err := c.dial()
		if err == nil {
			var renewed lease
			if renewed, err = c.exchange(ctx, conn, dhcpRequest, l, true, 10*time.Second); err == nil {
				l.time = renewed.time
			}
			conn.close()
		}
		if err != nil && ctx.Err() == nil {
			problem(fmt.Errorf("keep the address from DHCP: %w", err))
		}
	}
}

// dhcpSocket is a UDP socket that works before there is an address: packets leave by the interface that it is
// bound to, from 0.0.0.0.
type dhcpSocket struct{ fd int }

func dialDHCP(link string) (dhcpConn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.BindToDevice(fd, link),
		unix.Bind(fd, &unix.SockaddrInet4{Port: 68}),
	)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &dhcpSocket{fd}, nil
}

func (s *dhcpSocket) send(b []byte) error {
	return unix.Sendto(s.fd, b, 0, &unix.SockaddrInet4{Port: 67, Addr: [4]byte{255, 255, 255, 255}})
}

func (s *dhcpSocket) receive(b []byte, atMost time.Duration) (int, error) {
	tv := unix.NsecToTimeval(max(atMost, time.Millisecond).Nanoseconds())
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return 0, err
	}
	n, _, err := unix.Recvfrom(s.fd, b, 0)
	return n, err
}

func (s *dhcpSocket) close() { _ = unix.Close(s.fd) }
