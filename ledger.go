package firerunner

import (
	"context"
	"time"
)

// Ledger is what a driver without a process of its own beside each microVM must remember beyond the life of the daemon.
// It is kept with everything else that is true; package storetest holds its suite. No secret is in it: of tokens and
// sessions only the SHA-256. Errors carry a Code.
type Ledger interface {
	// SaveVM adds or replaces what is known of one microVM. A token that was used stays used: Session and UsedAt are
	// then left alone, because the guest may have been quicker than its driver.
	SaveVM(ctx context.Context, vm LedgerVM) error
	// VM returns it; NotFound if there is none.
	VM(ctx context.Context, id string) (LedgerVM, error)
	// VMs returns all of one driver, by ID.
	VMs(ctx context.Context, driver string) ([]LedgerVM, error)
	// UseToken marks the one-time token as used and writes the session's hash down, atomically: of any number of
	// callers at once, one is answered first = true, in the life of the microVM. NotFound where there is no such microVM.
	UseToken(ctx context.Context, id string, session [32]byte, at time.Time) (first bool, err error)
	// AddReport appends a report of the microVM and gives it its Seq. number is the guest's own, 0 for the driver's: one
	// that is not above the last is known already, and nothing happens (added = false). NotFound where there is no such
	// microVM; Conflict after ReportExited. What a guest reports is bounded in length and number: a report of its own
	// beyond is dropped (added = false), and a notice before the end says so. At is now where it is zero.
	AddReport(ctx context.Context, id string, number int64, r GuestReport) (added bool, err error)
	// Reports returns the reports with Seq > after, in order.
	Reports(ctx context.Context, id string, after int64) ([]GuestReport, error)
	// ForgetVM removes the microVM and its reports. Nothing to remove is not an error.
	ForgetVM(ctx context.Context, id string) error
}

// LedgerVM is one microVM in a Ledger.
type LedgerVM struct {
	ID        string
	Driver    string
	Host      string
	Ref       string    // the host's own name for it, such as Flintlock's uid; empty: not known yet
	Token     [32]byte  // SHA-256 of the one-time token
	Session   [32]byte  // SHA-256 of the session that its guest comes back with; zero: the token is unused
	UsedAt    time.Time // when the token was used; zero: it is not
	Number    int64     // the guest's last number that was recorded; SaveVM leaves it alone
	Exited    bool      // its last report is recorded; SaveVM leaves it alone
	CreatedAt time.Time
	Deadline  time.Time
}
