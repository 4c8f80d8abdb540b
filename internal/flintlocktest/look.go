package flintlocktest

import (
	"context"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"github.com/firerunner/firerunner/proto/flintlock/types"
)

// VM is what a host really has of one microVM, which is more than its API tells.
type VM struct {
	UID, Namespace, ID string
	State              string // PENDING, CREATED, FAILED or DELETING, as the API says
	Retry              int
	Reason             string // of the last failure, which the API does not tell
	Refusal            string // why the VMM refused its configuration and ended at once, which nobody tells
	Deleting           bool
	Boots              int  // how often its machine was started
	Running            bool // whether its machine runs, which the API does not tell
	Unreadable         bool // whether its record spoils every list
	VCPUs              int
	MemoryMiB          int
	Console            string            // the file with what the guest printed
	Metadata           map[string]string // as the guest reads it
	// Asked is the spec as the client sent it, labels included; Told is what the API returns.
	Asked *types.MicroVMSpec
	Told  *types.MicroVM
}

// Counters count since Start.
type Counters struct {
	Creates, Deletes int // accepted calls
	Gone             int // microVMs that were removed
	Boots            int // machines started
	GhostBoots       int // of these, machines that were started again though they had ended
	Pulls            int
	Resyncs          int
	FailedResyncs    int
	Starts           int // of the daemon
	Crashes          int // of the daemon
	LastCrash        string
	// Peak is the most that the running machines had together.
	Peak Capacity
}

func (c *Counters) count(used Capacity) {
	c.Peak.VCPUs = max(c.Peak.VCPUs, used.VCPUs)
	c.Peak.MemoryMiB = max(c.Peak.MemoryMiB, used.MemoryMiB)
}

// Counters are the counters as they are now.
func (s *Server) Counters() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counters
}

// VMs are all microVMs that the host knows of, the oldest first.
func (s *Server) VMs() []VM {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []VM
	for _, r := range s.inOrder() {
		all = append(all, s.look(r))
	}
	return all
}

// VM is one microVM; ok = false if the host has none of that uid.
func (s *Server) VM(uid string) (vm VM, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[uid]
	if !ok {
		return VM{}, false
	}
	return s.look(r), true
}

// look is a record as tests see it. The caller holds mu.
func (s *Server) look(r *record) VM {
	m := s.machine(r)
	_, alive := s.running[r.uid()]
	return VM{
		UID: r.uid(), Namespace: r.namespace(), ID: r.id(),
		State: r.state().String(), Retry: int(r.vm.GetStatus().GetRetry()), Reason: r.reason, Refusal: r.refusal, Deleting: r.deleting,
		Boots: r.boots, Running: alive, Unreadable: r.unreadable(), VCPUs: m.VCPUs, MemoryMiB: m.MemoryMiB,
		Console: filepath.Join(m.Dir, consoleFile), Metadata: m.Metadata,
		Asked: proto.Clone(r.asked).(*types.MicroVMSpec), Told: r.view(),
	}
}

// Console is what a guest has printed so far, at most 1 MiB of its end.
func (s *Server) Console(uid string) (string, error) {
	const limit = 1 << 20
	text, err := os.ReadFile(filepath.Join(s.machineDir(filepath.Base(uid)), consoleFile))
	return string(text[max(0, len(text)-limit):]), err
}

// Running is how many machines run, those included whose record was removed.
func (s *Server) Running() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.running)
}

// Wait returns once done reports true of the server's microVMs, looking again after every change. It is also asked
// when calls come, the daemon starts or ends, and faults strike.
func (s *Server) Wait(ctx context.Context, done func([]VM) bool) error {
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		if done(s.VMs()) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.ctx.Done():
			return errClosed
		}
	}
}

// WaitVM returns the microVM once done reports true of it.
func (s *Server) WaitVM(ctx context.Context, uid string, done func(VM) bool) (found VM, err error) {
	err = s.Wait(ctx, func([]VM) bool {
		vm, ok := s.VM(uid)
		found = vm
		return ok && done(vm)
	})
	return found, err
}

// WaitGone returns once the host knows nothing of a uid any more.
func (s *Server) WaitGone(ctx context.Context, uid string) error {
	return s.Wait(ctx, func([]VM) bool {
		_, ok := s.VM(uid)
		return !ok
	})
}
