package firerunner

import (
	"context"
	"time"
)

// Controller is one process that serves a site. Several may on one database: any of them takes webhooks and reads jobs,
// and each moves the runners that bear its name. Its right to do so is a lease (LeaseOf), and while it has none, one of
// the others stands in for it.
type Controller struct {
	Name        string // empty: that of a site's only one
	Driver      string
	Machine     string // where it runs; for people
	Version     string // of the program
	Endpoint    string // where guests call it, host:port; empty: they do not
	Fingerprint string // of the certificate there, in the form sha256:...
	StartedAt   time.Time
}

// ControllerLeases is what the names of controllers' leases begin with.
const ControllerLeases = "controller/"

// SiteLease is had by the one controller that does what is done once for the whole site: sweeping, asking hosts.
const SiteLease = "site"

// LeaseOf is the name of a controller's lease.
func LeaseOf(controller string) string { return ControllerLeases + controller }

// Registry is what a site knows of its controllers and of itself. Errors carry a Code.
type Registry interface {
	// SaveController adds or replaces what is known of one.
	SaveController(ctx context.Context, c Controller) error
	// Controllers returns all of them, by name; those that have ended are among them.
	Controllers(ctx context.Context) ([]Controller, error)
	// ForgetController removes one. None to remove is not an error.
	ForgetController(ctx context.Context, name string) error
	// Installation returns the site's mark on everything that it makes elsewhere. proposed becomes it where there is none
	// yet, for good: of several that propose one, the first wins. Without a proposal NotFound where there is none.
	Installation(ctx context.Context, proposed string) (string, error)
}
