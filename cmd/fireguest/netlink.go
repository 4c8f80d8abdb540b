package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
)

// The messages that set up an interface, in the kernel's own format: rtnetlink(7). It is little, and a library
// for it would be the largest part of the agent.

// attr appends a routing attribute: length, type, value, padding.
func attr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func linkMessage(index int, up bool, mac net.HardwareAddr, mtu int) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	if up {
		binary.NativeEndian.PutUint32(b[8:], unix.IFF_UP)
	}
	binary.NativeEndian.PutUint32(b[12:], unix.IFF_UP) // the flags that change
	if len(mac) > 0 {
		b = attr(b, unix.IFLA_ADDRESS, mac)
	}
	if mtu > 0 {
		b = attr(b, unix.IFLA_MTU, binary.NativeEndian.AppendUint32(nil, uint32(mtu)))
	}
	return b
}

func addressMessage(index int, address netip.Prefix) []byte {
	b := make([]byte, unix.SizeofIfAddrmsg)
	b[0], b[1] = family(address.Addr()), byte(address.Bits())
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	b = attr(b, unix.IFA_LOCAL, address.Addr().AsSlice())
	return attr(b, unix.IFA_ADDRESS, address.Addr().AsSlice())
}

func defaultRouteMessage(index int, gateway netip.Addr) []byte {
	b := make([]byte, unix.SizeofRtMsg)
	b[0] = family(gateway)
	b[4], b[5], b[6], b[7] = unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	b = attr(b, unix.RTA_GATEWAY, gateway.AsSlice())
	return attr(b, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index)))
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// netlink sends requests to the kernel one by one.
type netlink struct {
	fd  int
	seq uint32
}

func dialNetlink() (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	return &netlink{fd: fd}, nil
}

func (n *netlink) close() { _ = unix.Close(n.fd) }

// do sends one request and waits for the kernel's answer; the kernel answers before send returns.
func (n *netlink) do(kind, flags uint16, body []byte) error {
	n.seq++
	msg := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, kind)
	msg = binary.NativeEndian.AppendUint16(msg, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	msg = binary.NativeEndian.AppendUint32(msg, n.seq)
	msg = binary.NativeEndian.AppendUint32(msg, 0)
	msg = append(msg, body...)
	if err := unix.Sendto(n.fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	got, _, err := unix.Recvfrom(n.fd, answer, 0)
	if err != nil {
		return err
	}
	if got < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("netlink: odd answer of %d bytes", got)
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

// configureNetwork brings up the loopback interface and the one that leads out.
func configureNetwork(name string, want firerunner.GuestNetwork) error {
	n, err := dialNetlink()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer n.close()
	if err := n.loopback(); err != nil {
		return err
	}
	if want.Address == "" {
		return nil // a guest without a network
	}
	address, err := netip.ParsePrefix(want.Address)
	if err != nil {
		return fmt.Errorf("guest address: %w", err)
	}
	link, err := net.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	var mac net.HardwareAddr
	if want.MAC != "" {
		if mac, err = net.ParseMAC(want.MAC); err != nil {
			return fmt.Errorf("guest MAC address: %w", err)
		}
	}
	if mac.String() == link.HardwareAddr.String() {
		mac = nil
	}
	if mac != nil { // a microVM from a snapshot has the address of the one that was saved
		if err := n.do(unix.RTM_NEWLINK, 0, linkMessage(link.Index, false, mac, 0)); err != nil {
			return fmt.Errorf("set the MAC address of %s: %w", name, err)
		}
	}
	if err := n.do(unix.RTM_NEWLINK, 0, linkMessage(link.Index, true, nil, want.MTU)); err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	const once = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	if err := n.do(unix.RTM_NEWADDR, once, addressMessage(link.Index, address)); err != nil {
		return fmt.Errorf("give %s to %s: %w", address, name, err)
	}
	if want.Gateway == "" {
		return nil
	}
	gateway, err := netip.ParseAddr(want.Gateway)
	if err != nil {
		return fmt.Errorf("guest gateway: %w", err)
	}
	if err := n.do(unix.RTM_NEWROUTE, once, defaultRouteMessage(link.Index, gateway)); err != nil {
		return fmt.Errorf("route by %s: %w", gateway, err)
	}
	return nil
}

func (n *netlink) loopback() error {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback interface: %w", err)
	}
	if err := n.do(unix.RTM_NEWLINK, 0, linkMessage(lo.Index, true, nil, 0)); err != nil {
		return fmt.Errorf("bring up the loopback interface: %w", err)
	}
	return nil
}

func (n *netlink) up(link net.Interface) error {
	if err := n.do(unix.RTM_NEWLINK, 0, linkMessage(link.Index, true, nil, 0)); err != nil {
		return fmt.Errorf("bring up %s: %w", link.Name, err)
	}
	return nil
}

// bringUp brings an interface up that has no address yet.
func bringUp(link net.Interface) error {
	n, err := dialNetlink()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer n.close()
	return n.up(link)
}
