package drivertest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// followTwo has two follow a microVM through its life, and then others who come too late for some of it.
func (e *exercise) followTwo() {
	vm := e.create()
	var both sync.WaitGroup
	var got [2][]firerunner.GuestReport
	errs := make([]error, len(got))
	for i := range got {
		both.Go(func() {
			errs[i] = e.driver.Follow(e.ctx, vm.ID, 0, func(r firerunner.GuestReport) error {
				got[i] = append(got[i], r)
				return nil
			})
		})
	}
	e.until(vm.ID, firerunner.ReportStarted)
	require.NoError(e, e.driver.Order(e.ctx, vm.ID, firerunner.OrderFinish))
	both.Wait()
	all := got[0]
	for i := range got {
		require.NoError(e, errs[i])
		e.inOrder(got[i], 0)
		require.Equal(e, all, got[i])
	}
	require.GreaterOrEqual(e, len(all), 4)
	require.Equal(e, firerunner.ReportExited, all[len(all)-1].Kind)

	require.Equal(e, all, e.until(vm.ID, firerunner.ReportExited), "a later reader sees something else")
	for after := range int64(len(all)) {
		var late []firerunner.GuestReport
		require.NoError(e, e.driver.Follow(e.ctx, vm.ID, after, func(r firerunner.GuestReport) error {
			late = append(late, r)
			return nil
		}))
		require.Equal(e, all[after:], late, "after %d", after)
	}
}

func (e *exercise) followErrors() {
	nobody := func(firerunner.GuestReport) error { return nil }
	err := e.driver.Follow(e.ctx, e.id(), 0, nobody)
	require.Equal(e, firerunner.NotFound, firerunner.CodeOf(err), "%v", err)

	vm := e.create()
	e.until(vm.ID, firerunner.ReportStarted)
	own := errors.New("the reader's own")
	calls := 0
	err = e.driver.Follow(e.ctx, vm.ID, 0, func(firerunner.GuestReport) error {
		calls++
		return own
	})
	require.ErrorIs(e, err, own)
	require.Equal(e, 1, calls, "report was called after it failed")

	// The guest waits for an order now, so this Follow has nothing to tell until it is cancelled.
	ctx, cancel := context.WithCancel(e.ctx)
	seen := make(chan struct{}, 100)
	done := make(chan error, 1)
	go func() {
		done <- e.driver.Follow(ctx, vm.ID, 0, func(firerunner.GuestReport) error {
			seen <- struct{}{}
			return nil
		})
	}()
	<-seen
	cancel()
	select {
	case err := <-done:
		require.ErrorIs(e, err, context.Canceled)
	case <-time.After(e.Within):
		e.Fatal("Follow does not end with its context")
	}
}

func (e *exercise) followUntilDestroy() {
	vm := e.create()
	hello := make(chan struct{}, 1)
	done := make(chan error, 1)
	var last firerunner.GuestReport
	go func() {
		done <- e.driver.Follow(e.ctx, vm.ID, 0, func(r firerunner.GuestReport) error {
			last = r
			select {
			case hello <- struct{}{}:
			default:
			}
			return nil
		})
	}()
	select {
	case <-hello:
	case err := <-done:
		e.Fatalf("Follow ended: %v", err)
	case <-time.After(e.Within):
		e.Fatal("no hello")
	}
	require.NoError(e, e.driver.Destroy(e.ctx, vm.ID))
	select {
	case err := <-done:
		if err == nil {
			require.Equal(e, firerunner.ReportExited, last.Kind)
		} else {
			require.Equal(e, firerunner.NotFound, firerunner.CodeOf(err), "%v", err)
		}
	case <-time.After(e.Within):
		e.Fatal("Follow does not end with its microVM")
	}
}

func (e *exercise) orderErrors() {
	err := e.driver.Order(e.ctx, e.id(), firerunner.OrderFinish)
	require.Equal(e, firerunner.NotFound, firerunner.CodeOf(err), "%v", err)

	vm := e.create()
	err = e.driver.Order(e.ctx, vm.ID, firerunner.OrderFinish)
	if err == nil { // only possible if it was quick to say hello
		require.Equal(e, firerunner.ReportHello, e.until(vm.ID, firerunner.ReportHello)[0].Kind)
	} else {
		require.Equal(e, firerunner.Unavailable, firerunner.CodeOf(err), "before hello: %v", err)
		e.until(vm.ID, firerunner.ReportStarted)
		err = e.driver.Order(e.ctx, vm.ID, "dance")
		require.Equal(e, firerunner.Invalid, firerunner.CodeOf(err), "%v", err)
		require.NoError(e, e.driver.Order(e.ctx, vm.ID, firerunner.OrderFinish))
	}
	e.until(vm.ID, firerunner.ReportExited)
	err = e.driver.Order(e.ctx, vm.ID, firerunner.OrderFinish)
	require.Equal(e, firerunner.Unavailable, firerunner.CodeOf(err), "after the end: %v", err)
}
