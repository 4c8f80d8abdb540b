package row

import (
	"time"

	"github.com/firerunner/firerunner"
)

// Lease is a row of leases.
type Lease struct {
	Name   string
	Holder string
	Epoch  int64
	Until  int64
}

// What is kept of leases whose holder died is forgotten a day after their end.
const (
	LeasesKept       = 24 * time.Hour
	LeasesPurgeEvery = 100 // leases that changed hands
	LeasesPurgeMost  = 1000
)

// CheckLease refuses what is no lease.
func CheckLease(name, holder string, ttl time.Duration) error {
	if name == "" || holder == "" || ttl < time.Microsecond {
		return firerunner.Errorf(firerunner.Invalid, "lease %q for %q: a name, a holder and a time are required", name, holder)
	}
	return nil
}

// Take is the row after holder has asked for it; ok = false: another has it. known is the row before, the zero value where
// there is none; now is the database's clock.
func (known Lease) Take(name, holder string, ttl time.Duration, now int64) (taken Lease, ok, changed bool) {
	if known.Until > now && known.Holder != holder {
		return known, false, false
	}
	taken = Lease{Name: name, Holder: holder, Epoch: known.Epoch, Until: now + ttl.Microseconds()}
	if known.Until <= now || known.Holder != holder {
		// The clock, so that an epoch does not come again after the row was forgotten.
		taken.Epoch, changed = max(known.Epoch+1, now), true
	}
	return taken, true, changed
}

// Check fails with Conflict unless the row is the lease and in force.
func (known Lease) Check(l firerunner.Lease, now int64) error {
	switch {
	case known.Holder != l.Holder || known.Epoch != l.Epoch:
		return firerunner.Errorf(firerunner.Conflict, "the lease %q of %q is over: epoch %d is now, not %d", l.Name, l.Holder, known.Epoch, l.Epoch)
	case known.Until <= now:
		return firerunner.Errorf(firerunner.Conflict, "the lease %q of %q has expired", l.Name, l.Holder)
	}
	return nil
}

// Lease is the row as the root package has it.
func (known Lease) Lease() firerunner.Lease {
	return firerunner.Lease{Name: known.Name, Holder: known.Holder, Epoch: known.Epoch, Until: FromMicros(known.Until)}
}
