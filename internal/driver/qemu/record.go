package qemu

import (
	"encoding/json"
	"os"
	"time"

	"github.com/firerunner/firerunner"
)

// phase is how far the daemon is with a microVM.
type phase string

const (
	phaseMaking     phase = "making"
	phaseMade       phase = "made"
	phaseDestroying phase = "destroying"
)

// record is what the daemon remembers of a microVM. It holds no secret.
type record struct {
	ID        string
	Host      string
	Phase     phase
	UID       int    // whose the folder and the processes are
	PID       int    // of the shim; 0 = not started
	PIDStart  uint64 // the shim's start time, as /proc says it: pids are used again
	CreatedAt time.Time
	Deadline  time.Time
}

func (r record) microVM(alive bool) firerunner.MicroVM {
	return firerunner.MicroVM{ID: r.ID, Host: r.Host, Alive: alive, CreatedAt: r.CreatedAt, Deadline: r.Deadline}
}

// readRecord returns ok = false where there is none, or one that a crash of the host left in pieces.
func (f folder) readRecord(id string) (record, bool) {
	b, err := os.ReadFile(f.record(id))
	if err != nil {
		return record{ID: id}, false
	}
	var r record
	if json.Unmarshal(b, &r) != nil || r.ID != id {
		return record{ID: id}, false
	}
	return r, true
}

// writeRecord replaces the record in one step: a crash leaves the old one or the new one.
func (f folder) writeRecord(r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	part := f.record(r.ID) + ".part"
	if err := os.WriteFile(part, b, 0o600); err != nil {
		return err
	}
	return os.Rename(part, f.record(r.ID))
}
