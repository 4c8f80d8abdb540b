package sim

import (
	"context"

	"github.com/firerunner/firerunner"
)

// What must hold on hosts at every instant.

// checkHosts looks at what is truly on each host, beside what was made late: that is the reaper's.
func (w *world) checkHosts() {
	for _, name := range w.fleet.names() {
		h := w.fleet.hosts[name]
		var vcpus, memoryMiB, slots int
		addresses := map[string]string{}
		for _, vm := range w.fleet.here() {
			if vm.spec.Host != name || vm.late {
				continue
			}
			vcpus, memoryMiB, slots = vcpus+vm.spec.Size.VCPUs, memoryMiB+vm.spec.Size.MemoryMiB, slots+1
			if a := vm.spec.Address.Address; a != "" {
				if other, taken := addresses[a]; taken {
					w.problem("microVMs %s and %s on host %s both have address %s", other, vm.spec.ID, name, a)
				}
				addresses[a] = vm.spec.ID
			}
		}
		if vcpus > h.VCPUs || memoryMiB > h.MemoryMiB || slots > h.Slots {
			w.problem("host %s is over capacity: %d of %d vCPUs, %d of %d MiB, %d of %d slots", name, vcpus, h.VCPUs, memoryMiB, h.MemoryMiB, slots, h.Slots)
		}
	}
}

// removing reports whether all that a runner has is being removed, or gone. A host may be asked for a microVM by a process that
// dies, stands still or gives up, and make it only then: nobody can call that back, and no row knows it (adr/0011).
func (w *world) removing(id string) bool {
	r, err := w.store.Runner(context.Background(), id)
	return err != nil || r.State >= firerunner.Stopping
}

// checkWanted looks at a call for a microVM: who acts for its runner must not make it while it is being removed.
func (l localDriver) checkWanted(id string) {
	if d := l.d; !d.dead.Load() && (!d.w.shared() || d.has(l.owner)) && d.w.removing(id) {
		d.w.problem("%s asks for microVM %s, which is being removed", d.mark(), id)
	}
}
