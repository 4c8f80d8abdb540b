package flintlocktest

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// reconcile brings one microVM one step nearer to what its record says. Only the daemon's loop calls it.
func (d *daemon) reconcile(uid string) {
	s := d.srv
	s.mu.Lock()
	r, found := s.records[uid]
	switch {
	case !found || r.unreadable(): // the real one fails to read it, says so in its log, and goes on
		s.mu.Unlock()
		return
	case r.state() == stateFailed && !r.deleting:
		s.mu.Unlock()
		return
	case r.notBefore.After(time.Now()):
		s.mu.Unlock()
		d.enqueue(uid, r.notBefore)
		return
	}
	deleting, nokernel := r.deleting, !hasKernel(r.spec())
	s.mu.Unlock()

	var err error
	switch {
	case deleting:
		err = d.remove(r)
	case nokernel:
		d.die("nil dereference: microvm " + uid + " has no kernel")
		return
	default:
		err = d.provide(r)
	}
	if d.ctx.Err() != nil {
		return // the daemon was killed meanwhile; what is not in the record did not happen
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, found := s.records[uid]; !found {
		return
	}
	d.outcome(r, err)
}

// outcome writes down how a step went. The caller holds mu.
func (d *daemon) outcome(r *record, err error) {
	s := d.srv
	if err == nil {
		if r.state() == statePending {
			r.vm.Status.State = stateCreated
			r.vm.Status.Retry = 0
			r.notBefore, r.reason = time.Time{}, ""
			s.save(r)
			s.log.Info("microvm created", "uid", r.uid())
		}
		return
	}
	r.reason = err.Error()
	if int(r.vm.Status.Retry) > s.cfg.MaxRetry {
		r.vm.Status.State = stateFailed
		s.save(r)
		s.log.Warn("microvm failed", "uid", r.uid(), "error", err)
		return
	}
	r.vm.Status.Retry++
	if !r.deleting {
		r.vm.Status.State = statePending
	}
	r.notBefore = time.Now().Add(time.Duration(r.vm.Status.Retry) * s.cfg.RetryDelay)
	s.save(r)
	s.log.Warn("reconciling failed", "uid", r.uid(), "retry", r.vm.Status.Retry, "error", err)
	d.enqueue(r.uid(), r.notBefore)
}

// remove ends the machine and forgets the microVM. There is no graceful stop: the machine is killed.
func (d *daemon) remove(r *record) error {
	s := d.srv
	s.mu.Lock()
	stuck := s.strike(func(f *Fault) bool { return f.Action == FaultStuckDelete && f.matchesName(r.id(), r.uid()) })
	alive := s.running[r.uid()]
	s.mu.Unlock()
	if stuck != nil {
		return errors.New("stopping the microvm: unable to kill process: os: process already finished")
	}
	if alive != nil {
		s.kill(alive)
	}
	if err := os.RemoveAll(s.machineDir(r.uid())); err != nil {
		return fmt.Errorf("removing the state directory: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, r.uid())
	s.counters.Gone++
	s.log.Info("microvm gone", "uid", r.uid())
	s.touch()
	return nil
}
