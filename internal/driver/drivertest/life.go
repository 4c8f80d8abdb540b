package drivertest

import (
	"context"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func (e *exercise) probe() {
	require.NotEmpty(e, e.driver.Name())
	require.NoError(e, e.driver.Probe(e.ctx))
	vms, err := e.driver.List(e.ctx)
	require.NoError(e, err)
	require.Empty(e, vms, "a probe leaves nothing")
}

func (e *exercise) life() {
	spec := e.Spec(e.T, e.id())
	before := time.Now()
	vm, err := e.driver.Create(e.ctx, spec)
	require.NoError(e, err)
	require.Equal(e, spec.ID, vm.ID)
	require.Equal(e, spec.Host, vm.Host)
	require.True(e, vm.Alive)
	require.WithinDuration(e, spec.Deadline, vm.Deadline, time.Second)
	require.WithinRange(e, vm.CreatedAt, before.Add(-time.Second), time.Now().Add(time.Second))

	listed, ok := e.listed(spec.ID)
	require.True(e, ok)
	require.True(e, listed.Alive)
	require.Equal(e, spec.Host, listed.Host)
	require.True(e, vm.CreatedAt.Equal(listed.CreatedAt))

	reports := e.until(spec.ID, firerunner.ReportStarted)
	require.Equal(e, firerunner.ReportHello, reports[0].Kind)
	require.WithinRange(e, reports[0].At, before.Add(-time.Second), time.Now().Add(time.Second))

	require.NoError(e, e.driver.Order(e.ctx, spec.ID, firerunner.OrderFinish))
	reports = e.until(spec.ID, firerunner.ReportExited)
	require.Contains(e, kinds(reports), firerunner.ReportRunnerExited)
	require.NotEmpty(e, reports[len(reports)-1].Message, "the last word says how it ended")

	listed, ok = e.listed(spec.ID)
	require.True(e, ok, "a microVM is listed until it is destroyed")
	require.False(e, listed.Alive)
	e.destroyed(spec.ID)
	require.NoError(e, e.driver.Destroy(e.ctx, spec.ID), "destroying twice")
}

func (e *exercise) createTwice() {
	first := e.create()
	again, err := e.driver.Create(e.ctx, e.Spec(e.T, first.ID))
	require.NoError(e, err)
	require.True(e, again.Alive)
	require.True(e, first.CreatedAt.Equal(again.CreatedAt), "a second Create made a second microVM")
	e.until(first.ID, firerunner.ReportStarted)
	require.NoError(e, e.driver.Order(e.ctx, first.ID, firerunner.OrderStop))
	e.until(first.ID, firerunner.ReportExited)

	// A microVM that has run is not made a second time: a job is never run twice in silence.
	again, err = e.driver.Create(e.ctx, e.Spec(e.T, first.ID))
	require.NoError(e, err)
	require.False(e, again.Alive)
	require.True(e, first.CreatedAt.Equal(again.CreatedAt))
	e.destroyed(first.ID)
}

func (e *exercise) createAtOnce() {
	spec := e.Spec(e.T, e.id())
	vms := make([]firerunner.MicroVM, 6)
	errs := make([]error, len(vms))
	var all sync.WaitGroup
	for i := range vms {
		all.Go(func() { vms[i], errs[i] = e.driver.Create(e.ctx, spec) })
	}
	all.Wait()
	for i := range vms {
		require.NoError(e, errs[i])
		require.True(e, vms[i].CreatedAt.Equal(vms[0].CreatedAt), "two Creates at once made two microVMs")
	}
	_, ok := e.listed(spec.ID)
	require.True(e, ok)
	e.destroyed(spec.ID)
}

func (e *exercise) createInvalid() {
	for name, change := range map[string]func(*firerunner.MicroVMSpec){
		"no id":               func(s *firerunner.MicroVMSpec) { s.ID = "" },
		"an id that is a way": func(s *firerunner.MicroVMSpec) { s.ID = "../x" },
		"no deadline":         func(s *firerunner.MicroVMSpec) { s.Deadline = time.Time{} },
		"a passed deadline":   func(s *firerunner.MicroVMSpec) { s.Deadline = time.Now().Add(-time.Minute) },
		"no vcpus":            func(s *firerunner.MicroVMSpec) { s.Size.VCPUs = 0 },
		"no memory":           func(s *firerunner.MicroVMSpec) { s.Size.MemoryMiB = 0 },
	} {
		id := e.id()
		spec := e.Spec(e.T, id)
		change(&spec)
		_, err := e.driver.Create(e.ctx, spec)
		require.Equal(e, firerunner.Invalid, firerunner.CodeOf(err), "%s: %v", name, err)
		require.Empty(e, e.Leftovers(e.T, e.driver, id), name)
	}
	vms, err := e.driver.List(e.ctx)
	require.NoError(e, err)
	require.Empty(e, vms)
}

func (e *exercise) createContext() {
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	spec := e.Spec(e.T, e.id())
	_, err := e.driver.Create(ctx, spec)
	require.Error(e, err)
	if _, ok := e.listed(spec.ID); !ok {
		require.Empty(e, e.Leftovers(e.T, e.driver, spec.ID), "left after an error, and List does not show it")
	}
	_, err = e.driver.Create(e.ctx, spec)
	require.NoError(e, err, "a failed Create does not spend the ID")
}

func (e *exercise) createAfterDestroy() {
	first := e.create()
	e.destroyed(first.ID)
	second, err := e.driver.Create(e.ctx, e.Spec(e.T, first.ID))
	require.NoError(e, err)
	require.True(e, second.Alive)
	require.True(e, second.CreatedAt.After(first.CreatedAt))
	reports := e.until(first.ID, firerunner.ReportHello)
	require.Equal(e, firerunner.ReportHello, reports[0].Kind, "reports of the first are told of the second")
}

func (e *exercise) destroyNothing() {
	id := e.id()
	require.NoError(e, e.driver.Destroy(e.ctx, id))
	require.NoError(e, e.driver.Destroy(e.ctx, id))
	require.Empty(e, e.Leftovers(e.T, e.driver, id))
}

func (e *exercise) destroyAtOnce() {
	vm := e.create()
	errs := make([]error, 4)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() {
			errs[i] = e.driver.Destroy(e.ctx, vm.ID)
			if left := e.Leftovers(e.T, e.driver, vm.ID); len(left) > 0 {
				e.Errorf("Destroy returned before all was gone: %q", left)
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		require.NoError(e, err)
	}
	e.destroyed(vm.ID)
}

func (e *exercise) destroyDuringCreate() {
	spec := e.Spec(e.T, e.id())
	var all sync.WaitGroup
	var createErr, destroyErr error
	all.Go(func() { _, createErr = e.driver.Create(e.ctx, spec) })
	all.Go(func() { destroyErr = e.driver.Destroy(e.ctx, spec.ID) })
	all.Wait()
	require.NoError(e, destroyErr)
	// The two may come in either order; what must hold is that List knows which.
	if _, ok := e.listed(spec.ID); !ok {
		require.Empty(e, e.Leftovers(e.T, e.driver, spec.ID))
	} else {
		require.NoError(e, createErr)
	}
	e.destroyed(spec.ID)
}

func (e *exercise) list() {
	vms, err := e.driver.List(e.ctx)
	require.NoError(e, err)
	require.Empty(e, vms)
	a, b := e.create(), e.create()
	for _, vm := range []firerunner.MicroVM{a, b} {
		listed, ok := e.listed(vm.ID)
		require.True(e, ok)
		require.True(e, listed.Alive)
	}
	e.destroyed(a.ID)
	listed, ok := e.listed(b.ID)
	require.True(e, ok)
	require.True(e, listed.Alive, "destroying one ended another")
	e.until(b.ID, firerunner.ReportHello)
	e.destroyed(b.ID)
}

func (e *exercise) deadline() {
	spec := e.Spec(e.T, e.id())
	spec.Deadline = time.Now().Add(3 * time.Second)
	_, err := e.driver.Create(e.ctx, spec)
	require.NoError(e, err)
	e.until(spec.ID, firerunner.ReportExited) // nobody has done anything to it
	require.False(e, time.Now().Before(spec.Deadline), "it ended before its deadline")
	listed, ok := e.listed(spec.ID)
	require.True(e, ok)
	require.False(e, listed.Alive, "it has said that it ended")
	e.destroyed(spec.ID)
}

func (e *exercise) afterKill() {
	if e.Kill == nil {
		e.Skip(e.NoKill)
	}
	vm := e.create()
	e.until(vm.ID, firerunner.ReportHello)
	e.Kill(e.T, e.driver, vm.ID)
	reports := e.until(vm.ID, firerunner.ReportExited)
	require.NotEmpty(e, reports[len(reports)-1].Message)
	require.Equal(e, reports, e.until(vm.ID, firerunner.ReportExited), "the last word changes")
	listed, ok := e.listed(vm.ID)
	require.True(e, ok, "what is left of a dead one is listed")
	require.False(e, listed.Alive)
	err := e.driver.Order(e.ctx, vm.ID, firerunner.OrderFinish)
	require.Equal(e, firerunner.Unavailable, firerunner.CodeOf(err), "an order to a dead one: %v", err)
	again, err := e.driver.Create(e.ctx, e.Spec(e.T, vm.ID))
	require.NoError(e, err)
	require.False(e, again.Alive, "a microVM that has run is made a second time")
	e.destroyed(vm.ID)
}

func (e *exercise) afterCrash() {
	if e.Reopen == nil {
		e.Skip(e.NoReopen)
	}
	vm := e.create()
	reports := e.until(vm.ID, firerunner.ReportStarted)
	e.driver = e.Reopen(e.T, e.driver)

	listed, ok := e.listed(vm.ID)
	require.True(e, ok)
	require.True(e, listed.Alive, "a crash of the daemon ended a microVM")
	require.Equal(e, vm.Host, listed.Host)
	require.True(e, vm.CreatedAt.Equal(listed.CreatedAt))
	require.Equal(e, reports, e.until(vm.ID, firerunner.ReportStarted), "reports from before the crash")
	again, err := e.driver.Create(e.ctx, e.Spec(e.T, vm.ID))
	require.NoError(e, err)
	require.True(e, again.CreatedAt.Equal(vm.CreatedAt))

	require.NoError(e, e.driver.Order(e.ctx, vm.ID, firerunner.OrderFinish))
	require.Contains(e, kinds(e.until(vm.ID, firerunner.ReportExited)), firerunner.ReportRunnerExited)
	e.destroyed(vm.ID)
}
