package firerunner

import (
	"context"
	"io"
)

// Driver makes and ends microVMs of one technology. Package drivertest holds the suite that every driver passes.
// All methods may be called at once from several goroutines, for one microVM too. Errors carry a Code.
type Driver interface {
	// Name is the driver's word in configuration, logs and host rows.
	Name() string

	// Probe checks, by doing it, that a microVM can be made here now. It says the cause and the remedy if not.
	Probe(ctx context.Context) error

	// Create makes the microVM and returns once it is accepted; the guest boots on. Creating an ID that exists
	// returns the one that is there: twice is the same microVM. After an error nothing is left behind, or List
	// shows it.
	Create(ctx context.Context, spec MicroVMSpec) (MicroVM, error)

	// Destroy ends the microVM and removes everything that it had on the host; it returns once all of it is
	// gone. Nothing to destroy is not an error.
	Destroy(ctx context.Context, id string) error

	// List returns every microVM of this driver and installation that exists, and what is left of dead ones. It
	// is the truth after a crash. A driver of many hosts returns those of the hosts that answer together with the error
	// about the others.
	List(ctx context.Context) ([]MicroVM, error)

	// Follow calls report for each guest report with Seq > after, in order, first those that were missed and
	// then each as it comes. It returns nil after ReportExited, report's error, NotFound where there is no such
	// microVM, or the context's error. Two may follow one microVM.
	Follow(ctx context.Context, id string, after int64, report func(GuestReport) error) error

	// Order passes an order to the guest. It returns once the order was handed over, not once it is obeyed.
	// NotFound where there is no such microVM; Unavailable while the guest does not listen.
	Order(ctx context.Context, id string, order GuestOrder) error
}

// Console is an extra ability of a driver: the guest's console output, capped, kept until Destroy.
type Console interface {
	Console(ctx context.Context, id string) (io.ReadCloser, error)
}

// HostProber is an extra ability of a driver whose hosts may be unable to take work: they are out of reach, or have no room.
type HostProber interface {
	// ProbeHost asks one host for a sign of life. nil: it answers and takes work. Unavailable: it does not answer.
	// Anything else: it answers and cannot take work, for this reason.
	ProbeHost(ctx context.Context, host string) error
}
