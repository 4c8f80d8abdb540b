package storetest

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func (s *suite) saveHost(h firerunner.Host) {
	s.Helper()
	s.update(func(ctx context.Context, tx firerunner.Tx) error { return tx.SaveHost(ctx, h) })
}

func (s *suite) hostsOK() {
	full := firerunner.Host{
		Name: "b", Driver: "flintlock", VCPUs: 8, MemoryMiB: 1 << 20, Slots: 3, Labels: []string{"zone=a", awkward},
		Addresses: firerunner.AddressPool{
			First: netip.MustParseAddr("10.0.0.10"), Last: netip.MustParseAddr("10.0.0.20"), Bits: 24,
			Gateway: netip.MustParseAddr("10.0.0.1"), DNS: netip.MustParseAddr("fd00::53"),
		},
		SeenAt: noon(), Trouble: awkward, Lost: true, Controller: "a",
	}
	plain := firerunner.Host{Name: "a", Driver: "fake", Slots: 1, Draining: true}
	s.saveHost(full)
	s.saveHost(plain)
	read := func() []firerunner.Host {
		got, err := s.Store.Hosts(s.ctx())
		require.NoError(s, err)
		return got
	}
	require.Equal(s, []firerunner.Host{plain, full}, read(), "by name")
	full.Draining, full.VCPUs, full.Lost, full.Trouble, full.Controller = true, 4, false, "", "b"
	full.Labels, full.Addresses = nil, firerunner.AddressPool{}
	s.saveHost(full)
	require.Equal(s, []firerunner.Host{plain, full}, read(), "a save replaces all of it")
}

// hostRemoved: not while a live runner is on it.
func (s *suite) hostRemoved() {
	remove := func(name string) error {
		return s.Store.Update(s.ctx(), func(tx firerunner.Tx) error { return tx.RemoveHost(s.ctx(), name) })
	}
	s.requireCode(firerunner.NotFound, remove("a"))
	s.saveHost(firerunner.Host{Name: "a"})
	s.saveHost(firerunner.Host{Name: "b"})
	r := runnerNumber(1)
	r.Host, r.State = "a", firerunner.Stopping
	s.create(r)
	s.requireCode(firerunner.Conflict, remove("a"))
	require.NoError(s, remove("b"))
	r.State = firerunner.Gone
	s.update(func(ctx context.Context, tx firerunner.Tx) error { return tx.SaveRunner(ctx, &r) })
	require.NoError(s, remove("a"))
	hosts, err := s.Store.Hosts(s.ctx())
	require.NoError(s, err)
	require.Empty(s, hosts)
}

// placedOn is a runner with an address of a host.
func placedOn(n int, host, address string) firerunner.Runner {
	r := runnerNumber(n)
	r.State, r.Host, r.Address = firerunner.Placed, host, netip.MustParseAddr(address)
	return r
}

// addressOnce: no two live runners of one host have one address; it is free again once the first is gone.
func (s *suite) addressOnce() {
	first, second := placedOn(1, "a", "10.0.0.1"), placedOn(2, "a", "10.0.0.1")
	s.create(first, placedOn(3, "b", "10.0.0.1"), placedOn(4, "a", "10.0.0.2"))
	create := func(r firerunner.Runner) error {
		return s.Store.Update(s.ctx(), func(tx firerunner.Tx) error { return tx.CreateRunner(s.ctx(), r) })
	}
	s.requireCode(firerunner.Conflict, create(second))

	queued := runnerNumber(5)
	s.create(queued)
	queued.State, queued.Host, queued.Address = firerunner.Placed, "a", first.Address
	err := s.Store.Update(s.ctx(), func(tx firerunner.Tx) error { return tx.SaveRunner(s.ctx(), &queued) })
	s.requireCode(firerunner.Conflict, err)

	first.State = firerunner.Stopping
	s.update(func(ctx context.Context, tx firerunner.Tx) error { return tx.SaveRunner(ctx, &first) })
	s.requireCode(firerunner.Conflict, create(second))
	first.State = firerunner.Gone
	s.update(func(ctx context.Context, tx firerunner.Tx) error { return tx.SaveRunner(ctx, &first) })
	require.NoError(s, create(second))
	got, err := s.Store.Runner(s.ctx(), second.ID)
	require.NoError(s, err)
	require.Equal(s, second, got)
}

// addressRace: of many who take one address at once, one gets it.
func (s *suite) addressRace() {
	const takers = 16
	var won atomic.Int32
	var all sync.WaitGroup
	for i := range takers {
		all.Go(func() {
			err := s.Store.Update(s.ctx(), func(tx firerunner.Tx) error {
				return tx.CreateRunner(s.ctx(), placedOn(i, "a", fmt.Sprint("10.0.0.", i%2)))
			})
			switch firerunner.CodeOf(err) {
			case "":
				won.Add(1)
			case firerunner.Conflict:
			default:
				s.Errorf("take an address: %v", err)
			}
		})
	}
	all.Wait()
	require.Equal(s, int32(2), won.Load(), "there are two addresses")
}
