package row

import (
	"encoding/json"
	"net/netip"

	"github.com/firerunner/firerunner"
)

// Host is the row as the root package has it.
func (r Host) Host() firerunner.Host {
	return firerunner.Host{
		Name: r.Name, Driver: r.Driver, VCPUs: int(r.VCPUs), MemoryMiB: int(r.MemoryMiB), Slots: int(r.Slots),
		Draining: r.Draining != 0,
		Labels:   fromList(r.Labels),
		Addresses: firerunner.AddressPool{
			First: fromAddr(r.AddressFirst), Last: fromAddr(r.AddressLast), Bits: int(r.AddressBits),
			Gateway: fromAddr(r.Gateway), DNS: fromAddr(r.DNS),
		},
		SeenAt: FromMicros(r.SeenAt), Trouble: r.Trouble, Lost: r.Lost != 0, Controller: r.Controller,
	}
}

// FromHost is the inverse of Host.Host.
func FromHost(h firerunner.Host) Host {
	return storable(Host{
		Name: h.Name, Driver: h.Driver, VCPUs: int64(h.VCPUs), MemoryMiB: int64(h.MemoryMiB), Slots: int64(h.Slots),
		Draining:     Bit(h.Draining),
		Labels:       List(h.Labels, func(label string) string { return label }),
		AddressFirst: addr(h.Addresses.First),
		AddressLast:  addr(h.Addresses.Last),
		AddressBits:  int64(h.Addresses.Bits),
		Gateway:      addr(h.Addresses.Gateway),
		DNS:          addr(h.Addresses.DNS),
		SeenAt:       Micros(h.SeenAt),
		Trouble:      h.Trouble,
		Lost:         Bit(h.Lost),
		Controller:   h.Controller,
	})
}

// addr is an address as the tables hold it: in its one canonical form, so that the index on it means what it says.
func addr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.Unmap().String()
}

// fromAddr is the inverse of addr.
func fromAddr(text string) netip.Addr {
	a, _ := netip.ParseAddr(text) // written by addr, or empty
	return a
}

// fromList is the inverse of list, for texts; nil for none.
func fromList(text string) []string {
	var values []string
	_ = json.Unmarshal([]byte(text), &values) // written by list
	if len(values) == 0 {
		return nil
	}
	return values
}
