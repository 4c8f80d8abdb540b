// Package drivertest is the suite that every firerunner.Driver passes: what driver.go promises, checked from
// outside. A driver's own tests call Exercise with a Subject that says how to make one and how to look behind it.
//
// It also has a guest for drivers that boot real kernels (Image, Guest): small, quick, and independent of
// FireRunner's own images.
package drivertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/firerunner/firerunner"
)

// Subject is a driver under test. The guest of a Spec says hello, then reports that it started, then waits for
// an order and obeys it by reporting runner_exited and ending its machine.
type Subject struct {
	// New returns a driver with nothing in it. If it is an io.Closer, the suite closes it.
	New func(t *testing.T) firerunner.Driver

	// Spec returns a spec with the ID and a deadline some minutes ahead.
	Spec func(t *testing.T, id string) firerunner.MicroVMSpec

	// Leftovers names everything of an ID that is on the host now: processes, files, sockets, cgroups.
	Leftovers func(t *testing.T, d firerunner.Driver, id string) []string

	// Kill ends a microVM behind its driver's back, as a crash does. nil needs a reason in NoKill.
	Kill   func(t *testing.T, d firerunner.Driver, id string)
	NoKill string

	// Reopen returns a second driver on the state of the first, whose process crashed. nil needs a reason in NoReopen.
	Reopen   func(t *testing.T, d firerunner.Driver) firerunner.Driver
	NoReopen string

	// Within is how long a microVM may take from Create to hello, and from an order to its end; 0 = 60 s.
	Within time.Duration
}

// Exercise checks everything that firerunner.Driver promises.
func Exercise(t *testing.T, s Subject) {
	if s.Within == 0 {
		s.Within = time.Minute
	}
	require.True(t, s.Kill != nil || s.NoKill != "", "a subject without Kill says why")
	require.True(t, s.Reopen != nil || s.NoReopen != "", "a subject without Reopen says why")
	for _, c := range []struct {
		name string
		run  func(*exercise)
	}{
		{"Probe/OK", (*exercise).probe},
		{"Life/OK", (*exercise).life},
		{"Create/Twice", (*exercise).createTwice},
		{"Create/AtOnce", (*exercise).createAtOnce},
		{"Create/ErrInvalid", (*exercise).createInvalid},
		{"Create/ErrContext", (*exercise).createContext},
		{"Create/AfterDestroy", (*exercise).createAfterDestroy},
		{"Destroy/Nothing", (*exercise).destroyNothing},
		{"Destroy/AtOnce", (*exercise).destroyAtOnce},
		{"Destroy/DuringCreate", (*exercise).destroyDuringCreate},
		{"List/OK", (*exercise).list},
		{"Follow/Two", (*exercise).followTwo},
		{"Follow/Errors", (*exercise).followErrors},
		{"Follow/UntilDestroy", (*exercise).followUntilDestroy},
		{"Order/Errors", (*exercise).orderErrors},
		{"Deadline/OK", (*exercise).deadline},
		{"Dead/AfterKill", (*exercise).afterKill},
		{"Reopen/AfterCrash", (*exercise).afterCrash},
	} {
		t.Run(c.name, func(t *testing.T) {
			// Registered first, so it looks last: after everything of this test was closed.
			before := goleak.IgnoreCurrent()
			t.Cleanup(func() { goleak.VerifyNone(t, before) })
			c.run(newExercise(t, s))
		})
	}
}

// exercise is one check with a driver of its own.
type exercise struct {
	*testing.T
	Subject
	ctx    context.Context
	driver firerunner.Driver
	ids    []string
}

func newExercise(t *testing.T, s Subject) *exercise {
	ctx, cancel := context.WithTimeout(t.Context(), 4*s.Within)
	t.Cleanup(cancel)
	e := &exercise{T: t, Subject: s, ctx: ctx}
	e.driver = s.New(t)
	t.Cleanup(func() {
		e.removeAll()
		e.closeDriver()
	})
	return e
}

// removeAll destroys whatever a test made, whether it passed or not, and sees that nothing of it is left.
func (e *exercise) removeAll() {
	ctx, cancel := context.WithTimeout(context.Background(), e.Within)
	defer cancel()
	for _, id := range e.ids {
		if err := e.driver.Destroy(ctx, id); err != nil {
			e.Errorf("destroying %s: %v", id, err)
		}
		if left := e.Leftovers(e.T, e.driver, id); len(left) > 0 {
			e.Errorf("left of %s: %q", id, left)
		}
	}
}

func (e *exercise) closeDriver() {
	if c, ok := e.driver.(io.Closer); ok {
		if err := c.Close(); err != nil {
			e.Errorf("closing the driver: %v", err)
		}
	}
}

// id returns a fresh ID, which is destroyed at the end.
func (e *exercise) id() string {
	id := fmt.Sprintf("t%015x", rand.Uint64()>>4)
	e.ids = append(e.ids, id)
	return id
}

// create makes a microVM with a fresh ID.
func (e *exercise) create() firerunner.MicroVM {
	e.Helper()
	vm, err := e.driver.Create(e.ctx, e.Spec(e.T, e.id()))
	require.NoError(e, err)
	return vm
}

// listed returns the driver's word on an ID.
func (e *exercise) listed(id string) (vm firerunner.MicroVM, ok bool) {
	e.Helper()
	vms, err := e.driver.List(e.ctx)
	require.NoError(e, err)
	for _, v := range vms {
		if v.ID == id {
			require.False(e, ok, "%s is listed twice", id)
			vm, ok = v, true
		}
	}
	return vm, ok
}

// destroyed destroys and checks that nothing is left.
func (e *exercise) destroyed(id string) {
	e.Helper()
	require.NoError(e, e.driver.Destroy(e.ctx, id))
	_, ok := e.listed(id)
	require.False(e, ok, "%s is listed after Destroy", id)
	require.Empty(e, e.Leftovers(e.T, e.driver, id))
	err := e.driver.Follow(e.ctx, id, 0, func(firerunner.GuestReport) error { return nil })
	require.Equal(e, firerunner.NotFound, firerunner.CodeOf(err), "Follow after Destroy: %v", err)
}

// errEnough ends a Follow.
var errEnough = errors.New("enough")

// until follows from the beginning until a report of the kind comes, and returns all reports up to it.
func (e *exercise) until(id string, kind firerunner.ReportKind) []firerunner.GuestReport {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.ctx, e.Within)
	defer cancel()
	var got []firerunner.GuestReport
	err := e.driver.Follow(ctx, id, 0, func(r firerunner.GuestReport) error {
		got = append(got, r)
		if r.Kind == kind && kind != firerunner.ReportExited {
			return errEnough
		}
		return nil
	})
	if kind == firerunner.ReportExited {
		require.NoError(e, err, "reports so far: %+v", got)
	} else {
		require.ErrorIs(e, err, errEnough, "reports so far: %+v", got)
	}
	e.inOrder(got, 0)
	return got
}

// inOrder checks numbers, and that exited is last or absent.
func (e *exercise) inOrder(reports []firerunner.GuestReport, after int64) {
	e.Helper()
	for i, r := range reports {
		require.Equal(e, after+int64(i)+1, r.Seq, "report %d of %+v", i, reports)
		if r.Kind == firerunner.ReportExited {
			require.Equal(e, len(reports)-1, i, "exited is not last: %+v", reports)
		}
	}
}

func kinds(reports []firerunner.GuestReport) []firerunner.ReportKind {
	var ks []firerunner.ReportKind
	for _, r := range reports {
		ks = append(ks, r.Kind)
	}
	return ks
}
