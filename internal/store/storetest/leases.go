package storetest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// Leasing is a store with leases.
type Leasing interface {
	firerunner.Store
	firerunner.Leases
}

// ExerciseLeases runs the suite of firerunner.Leases and firerunner.Fence; open returns a new, empty store for each test
// and closes it.
func ExerciseLeases(t *testing.T, open func(t *testing.T) Leasing) {
	for name, run := range map[string]func(l *leases){
		"OK": (*leases).ok, "Expires": (*leases).expires, "Race": (*leases).race, "Fence": (*leases).fence, "Err": (*leases).err, "List": (*leases).list,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(&leases{T: t, Leasing: open(t)})
		})
	}
}

type leases struct {
	*testing.T
	Leasing
}

func (l *leases) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	l.Cleanup(cancel)
	return ctx
}

func (l *leases) acquire(holder string, ttl time.Duration) (firerunner.Lease, bool) {
	l.Helper()
	lease, ok, err := l.Acquire(l.ctx(), "runner1", holder, ttl)
	require.NoError(l, err)
	return lease, ok
}

func (l *leases) requireConflict(err error) {
	l.Helper()
	require.Error(l, err)
	require.Equal(l, firerunner.Conflict, firerunner.CodeOf(err), "%v", err)
}

func (l *leases) ok() {
	a, mine := l.acquire("a", time.Hour)
	require.True(l, mine)
	require.Equal(l, "runner1", a.Name)
	require.Equal(l, "a", a.Holder)
	require.WithinDuration(l, time.Now().Add(time.Hour), a.Until, time.Minute)
	other, mine := l.acquire("b", time.Hour)
	require.False(l, mine)
	require.Equal(l, a, other, "who has it")
	again, mine := l.acquire("a", 2*time.Hour)
	require.True(l, mine)
	require.Equal(l, a.Epoch, again.Epoch, "it goes on")
	renewed, err := l.Renew(l.ctx(), a, 3*time.Hour)
	require.NoError(l, err)
	require.True(l, renewed.Until.After(again.Until))

	require.NoError(l, l.Release(l.ctx(), renewed))
	require.NoError(l, l.Release(l.ctx(), renewed), "it is over already")
	_, err = l.Renew(l.ctx(), renewed, time.Hour)
	l.requireConflict(err)
	b, mine := l.acquire("b", time.Hour)
	require.True(l, mine)
	require.Greater(l, b.Epoch, a.Epoch)
	require.NoError(l, l.Release(l.ctx(), a), "another's is left alone")
	_, mine = l.acquire("a", time.Hour)
	require.False(l, mine)
}

// expires: by the clock of the database, and whoever had it cannot go on.
func (l *leases) expires() {
	a, mine := l.acquire("a", 50*time.Millisecond)
	require.True(l, mine)
	var b firerunner.Lease
	require.Eventually(l, func() bool { b, mine = l.acquire("b", time.Hour); return mine }, patience, 5*time.Millisecond)
	require.False(l, b.Until.Add(-time.Hour).Before(a.Until), "not before its end")
	require.Greater(l, b.Epoch, a.Epoch)
	_, err := l.Renew(l.ctx(), a, time.Hour)
	l.requireConflict(err)

	short, _, err := l.Acquire(l.ctx(), "other", "a", time.Millisecond)
	require.NoError(l, err)
	require.Eventually(l, func() bool {
		_, err = l.Renew(l.ctx(), short, time.Microsecond)
		return firerunner.CodeOf(err) == firerunner.Conflict
	}, patience, 5*time.Millisecond, "also where nobody took it")
	again, mine, err := l.Acquire(l.ctx(), "other", "a", time.Hour)
	require.NoError(l, err)
	require.True(l, mine)
	require.Greater(l, again.Epoch, short.Epoch, "what was done under the first may have been seen as over")
}

// race: of many at once, one has it.
func (l *leases) race() {
	const takers = 16
	var won atomic.Int32
	var all sync.WaitGroup
	for i := range takers {
		all.Go(func() {
			_, mine, err := l.Acquire(l.ctx(), "runner1", fmt.Sprint("holder", i), time.Hour)
			if err != nil {
				l.Errorf("acquire: %v", err)
			}
			if mine {
				won.Add(1)
			}
		})
	}
	all.Wait()
	require.Equal(l, int32(1), won.Load())
}

// fence: a late write under an old epoch is refused, with everything in its transaction.
func (l *leases) fence() {
	write := func(lease firerunner.Lease, message string) error {
		return l.Update(l.ctx(), func(tx firerunner.Tx) error {
			if err := tx.AddEvent(l.ctx(), firerunner.Event{Kind: firerunner.EventNotice, Message: message}); err != nil {
				return err
			}
			fence, ok := tx.(firerunner.Fence)
			require.True(l, ok)
			return fence.Under(l.ctx(), lease)
		})
	}
	a, _ := l.acquire("a", time.Hour)
	require.NoError(l, write(a, "in time"))
	require.NoError(l, l.Release(l.ctx(), a))
	l.requireConflict(write(a, "released"))
	b, _ := l.acquire("b", time.Hour)
	l.requireConflict(write(a, "late"))
	require.NoError(l, write(b, "the next"))
	forged := b
	forged.Holder = "a"
	l.requireConflict(write(forged, "another's epoch"))
	events, err := l.Events(l.ctx(), firerunner.EventQuery{})
	require.NoError(l, err)
	require.Len(l, events, 2)
	require.Equal(l, "the next", events[1].Message)
}

// list: by name, of one prefix, with those that are over and without those that were released.
func (l *leases) list() {
	take := func(name string, ttl time.Duration) firerunner.Lease {
		lease, mine, err := l.Acquire(l.ctx(), name, "holder", ttl)
		require.NoError(l, err)
		require.True(l, mine)
		return lease
	}
	for _, name := range []string{"x/b", "x/", "x", "w/a", "x0"} {
		take(name, time.Hour)
	}
	over, released := take("x/a", time.Millisecond), take("x/c", time.Hour)
	require.NoError(l, l.Release(l.ctx(), released))
	var got []firerunner.Lease
	require.Eventually(l, func() bool {
		var err error
		got, err = l.LeasesOf(l.ctx(), "x/")
		require.NoError(l, err)
		return len(got) == 3 && got[1].Over
	}, patience, 5*time.Millisecond)
	require.Equal(l, []string{"x/", "x/a", "x/b"}, []string{got[0].Name, got[1].Name, got[2].Name})
	require.Equal(l, over.Epoch, got[1].Epoch)
	require.False(l, got[0].Over || got[2].Over)
	got, err := l.LeasesOf(l.ctx(), "y/")
	require.NoError(l, err)
	require.Empty(l, got)
}

func (l *leases) err() {
	for _, bad := range []struct {
		name, holder string
		ttl          time.Duration
	}{{"", "a", time.Hour}, {"x", "", time.Hour}, {"x", "a", 0}, {"x", "a", -time.Hour}} {
		_, mine, err := l.Acquire(l.ctx(), bad.name, bad.holder, bad.ttl)
		require.False(l, mine)
		require.Equal(l, firerunner.Invalid, firerunner.CodeOf(err))
		_, err = l.Renew(l.ctx(), firerunner.Lease{Name: bad.name, Holder: bad.holder}, bad.ttl)
		require.Equal(l, firerunner.Invalid, firerunner.CodeOf(err))
	}
}
