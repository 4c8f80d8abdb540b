package firerunner

import (
	"context"
	"time"
)

// Leases say which process owns something now, such as a runner or a periodic task, where several serve one database. A
// lease ends by the database's clock, so that no process's clock has a say. Package storetest holds the suite. Errors carry a
// Code.
type Leases interface {
	// Acquire takes the lease for a time where nobody has it, where it has expired, and where holder has it itself: then it
	// goes on under its epoch. ok = false: another has it, and l says who and until when. Invalid without a name, a holder or
	// a positive time.
	Acquire(ctx context.Context, name, holder string, ttl time.Duration) (l Lease, ok bool, err error)
	// Renew lets a lease end so much from now. Conflict if it is over: expired, released, or another's. Then whatever was
	// done under it must stop.
	Renew(ctx context.Context, l Lease, ttl time.Duration) (Lease, error)
	// LeasesOf returns those whose name begins with prefix, by name. Those that are over are among them, until somebody takes
	// them, for a day at least; those that were released are not.
	LeasesOf(ctx context.Context, prefix string) ([]Lease, error)
	// Release gives a lease up. One that is over is not an error.
	Release(ctx context.Context, l Lease) error
}

// Fence is what a Tx of a store with Leases can do besides: type-assert it.
type Fence interface {
	// Under fails with Conflict unless the lease is in force; then it is until the transaction has ended, because nobody can
	// acquire it meanwhile. It is the first thing in a transaction that only the owner may do: a late write of a process
	// that was suspended, or cut off, is refused here.
	Under(ctx context.Context, l Lease) error
}

// Lease is the right to do something until a time.
type Lease struct {
	Name   string    // what is owned
	Holder string    // who: one life of one process
	Epoch  int64     // another one for each time that the lease changes hands
	Until  time.Time // by the database's clock
	Over   bool      // it has expired; said by LeasesOf only
}
