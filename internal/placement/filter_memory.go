package placement

import "fmt"

// memory refuses a host that has too little memory free.
func memory() filter {
	return filter{
		refuses: func(w *want, l *Load) bool { return w.Size.MemoryMiB > l.MemoryMiB-l.UsedMemoryMiB },
		why: func(w *want, l *Load) reason {
			return lacksMemory{l.MemoryMiB - l.UsedMemoryMiB, l.MemoryMiB, w.Size.MemoryMiB}
		},
	}
}

// lacksMemory is in MiB.
type lacksMemory struct{ free, of, need int }

func (n lacksMemory) String() string {
	return fmt.Sprintf("%d of %d MiB free, %d needed", n.free, n.of, n.need)
}
