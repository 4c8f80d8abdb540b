package qemu

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

// metadataAt is where cloud-init finds the metadata, as on Flintlock's hosts.
const metadataAt = "169.254.169.254:80"

// outside is the shim in the agent's place, for a microVM whose image has none. It has the keys: they are made here, and
// end with this process.
type outside struct {
	firerunner.Outside
	network Network
	seed    seed
}

// newOutside makes the keys and the metadata of a microVM.
func newOutside(s Shim, spec shimSpec, network Network) (*outside, error) {
	if s.Outside == nil || network == nil {
		return nil, firerunner.Errorf(firerunner.Internal, "shim: nobody is there to provision microVM %s over SSH", spec.ID)
	}
	o, err := s.Outside(spec.Host, firerunner.MicroVMSpec{
		ID: spec.ID, Host: spec.Host, Start: spec.Start, Deadline: spec.Deadline, Provision: spec.Provision, SSH: spec.SSH,
	})
	if err != nil {
		return nil, err
	}
	return &outside{Outside: o, network: network, seed: seed{
		"meta-data": fmt.Sprintf("instance-id: %s\nlocal-hostname: %s\n", spec.ID, or(spec.Start.Hostname, spec.ID)),
		"user-data": o.UserData.Reveal(),
		// Empty, but there: cloud-init asks ten times for one that is not.
		"vendor-data": "",
	}}, nil
}

// run offers the metadata until the guest is logged in to, and provisions it.
func (o *outside) run(ctx context.Context, start firerunner.GuestStart, report func(firerunner.GuestReport), orders <-chan firerunner.GuestOrder) error {
	withdraw := o.network.Offer(netip.MustParseAddrPort(metadataAt), o.seed.serve)
	defer withdraw()
	return o.Run(ctx, firerunner.OutsideWay{
		Dial:  func(ctx context.Context, port int) (net.Conn, error) { return o.network.Dial(ctx, port) },
		Start: start, Report: report, Orders: orders,
		Shut: func() bool {
			withdraw()
			return true
		},
	})
}

// provision is the agent's part of the microVM's life. When it is over, so is the microVM: there is nobody in it who would
// end it for certain, and nothing on its disk that anybody wants.
func (h *holder) provision(ctx context.Context) {
	if err := h.outside.run(ctx, h.spec.Start, h.reports.Guest, h.orders); err != nil && ctx.Err() == nil {
		h.log.Warn("a microVM could not be provisioned over SSH", "error", err) // it is in the reports
	}
	grace := time.NewTimer(h.spec.StopGrace)
	defer grace.Stop()
	select {
	case <-h.machine.done:
	case <-ctx.Done():
	case <-grace.C:
		h.machine.end(h.spec.StopGrace)
	}
}

// cloudInitWords tell cloud-init where its metadata is, and the network through which it gets there: the very words that
// Flintlock gives. There is no secret in them, and anybody in the guest can read them.
// https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html
func cloudInitWords(n firerunner.GuestNetwork) []string {
	words := []string{"ds=nocloud-net;s=http://" + strings.TrimSuffix(metadataAt, ":80") + "/latest/"}
	if n.Address == "" {
		return words
	}
	config := fmt.Sprintf(`version: 2
ethernets:
  eth0:
    match: {macaddress: "%s"}
    set-name: eth0
    dhcp4: false
    mtu: %d
    addresses: [%s]
    gateway4: %s
    nameservers: {addresses: [%s]}
`, n.MAC, n.MTU, n.Address, n.Gateway, n.DNS)
	return append(words, "network-config="+base64.StdEncoding.EncodeToString([]byte(config)))
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
