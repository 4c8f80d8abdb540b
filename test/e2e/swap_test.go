package e2e

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/test/remains"
)

// TestSwap has two jobs that take each other's microVM. GitLab gives the oldest job to whoever asks first, so the
// first microVM is held until the second has asked.
func TestSwap(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{slots: 2})
	older := s.only("older:\n  script: [echo older]\n")
	first := s.inState(firerunner.Booting)
	s.holdVM(first.ID)
	younger := s.only("younger:\n  script: [echo younger]\n")
	s.succeeded(older.ID)
	second := s.row(older.ID)
	require.NotEqual(t, first.ID, second.ID)
	// The first is not ended because the job that it was made for is done: it is wanted by the other.
	s.letGo(first.ID)
	s.succeeded(younger.ID)
	require.Equal(t, first.ID, s.row(younger.ID).ID)
	s.ended(first.ID, firerunner.Succeeded, firerunner.ReasonJobDone)
	s.ended(second.ID, firerunner.Succeeded, firerunner.ReasonJobDone)
	require.Len(t, s.rows(firerunner.RunnerQuery{}), 2)
}

// holdVM stops a microVM as if its processor had stopped; letGo lets it go on.
func (s *site) holdVM(id string) { s.signalVM(id, syscall.SIGSTOP) }
func (s *site) letGo(id string)  { s.signalVM(id, syscall.SIGCONT) }

func (s *site) signalVM(id string, sig syscall.Signal) {
	s.t.Helper()
	require.NoError(s.t, syscall.Kill(s.qemu(id), sig))
}

// qemu returns the process of a microVM.
func (s *site) qemu(id string) int {
	s.t.Helper()
	var pid int
	s.eventually("a process of microVM "+id, func() bool {
		for _, p := range remains.Processes(s.state("vms", id)) {
			if len(p.Name()) >= 11 && p.Name()[:11] == "qemu-system" {
				pid = p.PID
				return true
			}
		}
		return false
	})
	return pid
}
