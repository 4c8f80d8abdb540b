package firerunner

// Host is a machine that carries microVMs.
type Host struct {
	Name      string
	Driver    string
	VCPUs     int // what placement may give away, over-commit included
	MemoryMiB int
	Slots     int  // most microVMs at once
	Draining  bool // takes no new work, finishes the old
}
