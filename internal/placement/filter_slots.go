package placement

import "fmt"

// slots refuses a host that has as many microVMs as it may have.
func slots() filter {
	return filter{
		refuses: func(_ *want, l *Load) bool { return l.UsedSlots >= l.Slots },
		why:     func(_ *want, l *Load) reason { return lacksSlot(l.Slots) },
	}
}

// lacksSlot is how many there are.
type lacksSlot int

func (n lacksSlot) String() string { return fmt.Sprintf("all %d slots taken", int(n)) }
