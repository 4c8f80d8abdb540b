package flintlock

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

// What a microVM without an agent takes: this process is its agent from outside, over SSH, at the fixed address that it
// was given. The keys end with the process. A job that runs then goes on, nobody is told of it here any more, and what
// became of it is GitLab's to say; the microVM turns itself off after its job, and at its deadline.

// outsideMark stands in the ledger where the hash of a session would, once such a microVM was entered. There is no text
// with this hash that anybody could find, so no guest comes back with it.
func outsideMark() (mark [32]byte) {
	copy(mark[:], "provisioned over SSH")
	return mark
}

// fromOutside reports whether the microVM was entered over SSH: it never calls, so its silence means nothing.
func fromOutside(row firerunner.LedgerVM) bool { return row.Session == outsideMark() }

// recordAgain is the pause before a report is written down again that the ledger did not take.
const recordAgain = time.Second

// outside makes what stands in for the agent of a microVM whose image has none; nil for all others.
func (d *Driver) outside(spec firerunner.MicroVMSpec) (*firerunner.Outside, error) {
	if spec.Provision != firerunner.ProvisionSSH {
		return nil, nil
	}
	if d.cfg.Outside == nil {
		return nil, firerunner.Errorf(firerunner.Internal, "flintlock: nobody is there to provision microVM %s over SSH", spec.ID)
	}
	if _, err := netip.ParsePrefix(spec.Address.Address); err != nil {
		return nil, firerunner.Errorf(firerunner.Invalid, "flintlock: microVM %s has no fixed address, and is to be provisioned over SSH", spec.ID).
			WithHint("give host %s addresses: flintlock does not tell which one a microVM has", spec.Host)
	}
	o, err := d.cfg.Outside(spec.Host, spec)
	if err != nil {
		return nil, err
	}
	return &o, nil
}

// outsideMetadata is what such a microVM reads at its boot: nothing of ours, and not whom to call. The token is there
// only so that this microVM is known again on its host; nobody is let in by it.
func outsideMetadata(spec firerunner.MicroVMSpec, token, userData firerunner.Secret) (map[string]string, error) {
	story, err := json.Marshal(guestStory{V: 1, ID: spec.ID, Token: token.Reveal(), Deadline: spec.Deadline.Unix()})
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Internal, "the guest's metadata: %w", err)
	}
	values := map[string]string{
		metaDataKey: cloudMetaData(spec.ID), userDataKey: userData.Reveal(), firerunnerKey: string(story),
		vendorDataKey: noVendorData,
	}
	for key, value := range values {
		values[key] = base64.StdEncoding.EncodeToString([]byte(value))
	}
	return values, nil
}

// outsideNetwork says in flintlockd's place how such a microVM sets up its interfaces: flintlockd writes the address of its
// own in capitals, and cloud-init then waits for an interface that there is not.
// https://docs.cloud-init.io/en/latest/reference/network-config.html
func outsideNetwork(request *types.MicroVMSpec, n firerunner.GuestNetwork) {
	var b strings.Builder
	fmt.Fprintf(&b, `version: 2
ethernets:
  eth0:
    match: {macaddress: "%s"}
    set-name: eth0
    addresses: [169.254.0.1/16]
  eth1:
    match: {macaddress: "%s"}
    set-name: eth1
    addresses: [%s]
`, strings.ToLower(metadataMAC), strings.ToLower(request.Interfaces[0].GetGuestMac()), n.Address)
	if n.Gateway != "" {
		fmt.Fprintf(&b, "    gateway4: %s\n", plainAddress(n.Gateway))
	}
	if n.DNS != "" {
		fmt.Fprintf(&b, "    nameservers: {addresses: [%s]}\n", n.DNS)
	}
	request.Kernel.AddNetworkConfig = false
	request.Kernel.Cmdline[networkConfigKey] = base64.StdEncoding.EncodeToString([]byte(b.String()))
}

// provision enters a microVM that its host has accepted, and stays until it has ended or the driver is closed.
func (d *Driver) provision(vm *microVM, outside firerunner.Outside, spec firerunner.MicroVMSpec) {
	vm.mu.Lock()
	start := vm.start
	vm.mu.Unlock()
	if start == nil {
		return // it ended in this very moment
	}
	entering := *start
	orders := d.Orders(vm.id)
	d.loops.Go(func() {
		ctx, cancel := context.WithCancel(d.life)
		var watching sync.WaitGroup
		watching.Go(func() { vm.untilEnded(ctx); cancel() })
		defer watching.Wait()
		defer cancel()
		s := stand{Driver: d, vm: vm, giveUp: cancel}
		err := outside.Run(ctx, firerunner.OutsideWay{
			Dial:   func(ctx context.Context, port int) (net.Conn, error) { return d.dialGuest(ctx, spec, port) },
			Start:  entering,
			Report: func(r firerunner.GuestReport) { s.report(ctx, r) },
			Orders: orders,
		})
		if err != nil && ctx.Err() == nil {
			d.cfg.Logger.Warn("a microVM could not be provisioned over SSH", "microvm", vm.id, "host", spec.Host, "error", err, "hint", firerunner.HintOf(err))
			d.finishNow(ctx, vm, "it could not be provisioned over SSH")
		}
	})
}

func (d *Driver) dialGuest(ctx context.Context, spec firerunner.MicroVMSpec, port int) (net.Conn, error) {
	at, err := netip.ParsePrefix(spec.Address.Address)
	if err != nil {
		return nil, fmt.Errorf("the microVM's address: %w", err)
	}
	return d.cfg.Dial(ctx, "tcp", net.JoinHostPort(at.Addr().String(), strconv.Itoa(port)))
}

// untilEnded waits until nothing can come of the microVM any more.
func (vm *microVM) untilEnded(ctx context.Context) {
	for {
		vm.mu.Lock()
		over, changed := vm.row.Exited || vm.ending != "", vm.changed
		vm.mu.Unlock()
		if over {
			return
		}
		select {
		case <-changed:
		case <-vm.gone:
			return
		case <-ctx.Done():
			return
		}
	}
}

// stand is this process in the place of one guest.
type stand struct {
	*Driver
	vm       *microVM
	giveUp   context.CancelFunc
	admitted bool
	number   int64
}

// report writes a report down, and before the first one that the microVM was entered. It waits for a ledger that does
// not take it: what was not written down must not be lost, and gitlab-runner's log waits.
func (s *stand) report(ctx context.Context, r firerunner.GuestReport) {
	if !s.admitted {
		if !s.insist(ctx, func() error { return s.enter(ctx, s.vm) }) {
			return
		}
		s.admitted = true
	}
	s.number++
	number := s.number
	s.insist(ctx, func() error { return s.Record(ctx, s.vm.id, number, r) })
}

// insist tries until it is done, or there is no sense in it.
func (s *stand) insist(ctx context.Context, do func() error) bool {
	for {
		err := do()
		switch firerunner.CodeOf(err) {
		case "":
			return true
		case firerunner.Unavailable, firerunner.Exhausted:
		default:
			s.cfg.Logger.Warn("a report of a microVM could not be written down", "microvm", s.vm.id, "error", err)
			s.giveUp()
			return false
		}
		wait := time.NewTimer(recordAgain)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return false
		}
	}
}

// enter marks the microVM's token as used: by us.
func (d *Driver) enter(ctx context.Context, vm *microVM) error {
	now := d.cfg.Now()
	first, err := d.cfg.Ledger.UseToken(ctx, vm.id, outsideMark(), now)
	switch {
	case err != nil:
		return firerunner.Errorf(firerunner.CodeOf(err), "flintlock: entering microVM %s: %w", vm.id, err)
	case !first:
		return firerunner.Errorf(firerunner.Conflict, "flintlock: microVM %s was entered before", vm.id)
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.start, vm.aliveAt, vm.row.UsedAt, vm.row.Session = nil, now, now, outsideMark()
	return nil
}
