package placement

import "fmt"

// vcpus refuses a host that has too few vCPUs free.
func vcpus() filter {
	return filter{
		refuses: func(w *want, l *Load) bool { return w.Size.VCPUs > l.VCPUs-l.UsedVCPUs },
		why:     func(w *want, l *Load) reason { return lacksVCPUs{l.VCPUs - l.UsedVCPUs, l.VCPUs, w.Size.VCPUs} },
	}
}

type lacksVCPUs struct{ free, of, need int }

func (n lacksVCPUs) String() string {
	return fmt.Sprintf("%d of %d vCPUs free, %d needed", n.free, n.of, n.need)
}
