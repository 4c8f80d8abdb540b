package placement

import (
	"fmt"

	"github.com/firerunner/firerunner"
)

// A filter says in words why a host cannot carry a runner now; nothing if it can.
type filter func(r firerunner.Runner, l Load) string

// filters returns every filter, the most telling refusal first.
func filters() []filter {
	return []filter{draining, tooLarge, noSlot, noVCPUs, noMemory}
}

// refuse returns the first filter's refusal.
func refuse(r firerunner.Runner, l Load) string {
	for _, f := range filters() {
		if why := f(r, l); why != "" {
			return why
		}
	}
	return ""
}

func draining(_ firerunner.Runner, l Load) string {
	if l.Draining {
		return "draining"
	}
	return ""
}

// tooLarge is the refusal that no waiting will end.
func tooLarge(r firerunner.Runner, l Load) string {
	if r.Size.VCPUs > l.VCPUs || r.Size.MemoryMiB > l.MemoryMiB {
		return fmt.Sprintf("smaller than %s even when empty", r.Size)
	}
	return ""
}

func noSlot(_ firerunner.Runner, l Load) string {
	if l.UsedSlots >= l.Slots {
		return fmt.Sprintf("all %d slots taken", l.Slots)
	}
	return ""
}

func noVCPUs(r firerunner.Runner, l Load) string {
	if free := l.VCPUs - l.UsedVCPUs; r.Size.VCPUs > free {
		return fmt.Sprintf("%d of %d vCPUs free, %d needed", free, l.VCPUs, r.Size.VCPUs)
	}
	return ""
}

func noMemory(r firerunner.Runner, l Load) string {
	if free := l.MemoryMiB - l.UsedMemoryMiB; r.Size.MemoryMiB > free {
		return fmt.Sprintf("%d of %d MiB free, %d needed", free, l.MemoryMiB, r.Size.MemoryMiB)
	}
	return ""
}
