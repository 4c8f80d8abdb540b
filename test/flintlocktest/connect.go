package main

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/internal/network"
)

// guestMTU is what a guest takes that nobody tells of another.
const guestMTU = 1500

// connector gives each interface a user-mode network of its own, with one guest on it: the bridge of a host on which
// microVMs do not see each other.
func connector(policy firerunner.NetworkPolicy, log *slog.Logger) func(flintlocktest.Machine, flintlocktest.Interface) (flintlocktest.Link, error) {
	return func(m flintlocktest.Machine, i flintlocktest.Interface) (flintlocktest.Link, error) {
		cfg := network.Config{Policy: policy, MTU: guestMTU, Logger: log.With("uid", m.UID)}
		if i.Address != "" {
			address, err := netip.ParsePrefix(i.Address)
			if err != nil {
				return flintlocktest.Link{}, fmt.Errorf("static address %s: %w", i.Address, err)
			}
			cfg.Guest = address.Addr()
		}
		if i.GuestMAC != "" {
			mac, err := net.ParseMAC(i.GuestMAC)
			if err != nil {
				return flintlocktest.Link{}, fmt.Errorf("hardware address %s: %w", i.GuestMAC, err)
			}
			cfg.GuestMAC = mac
		}
		n, err := network.New(cfg)
		if err != nil {
			return flintlocktest.Link{}, err
		}
		return flintlocktest.Link{MAC: n.Guest().MAC, Serve: n.Serve, Close: n.Close}, nil
	}
}
