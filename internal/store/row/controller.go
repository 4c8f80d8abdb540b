package row

import (
	"github.com/firerunner/firerunner"
)

// SiteInstallation is the key of the site's mark in the table site.
const SiteInstallation = "installation"

// Controller is the row as the root package has it.
func (r Controller) Controller() firerunner.Controller {
	return firerunner.Controller{
		Name: r.Name, Driver: r.Driver, Machine: r.Machine, Version: r.Version, Endpoint: r.Endpoint,
		Fingerprint: r.Fingerprint, StartedAt: FromMicros(r.StartedAt),
	}
}

// FromController is the inverse of Controller.Controller.
func FromController(c firerunner.Controller) Controller {
	return storable(Controller{
		Name: c.Name, Driver: c.Driver, Machine: c.Machine, Version: c.Version, Endpoint: c.Endpoint,
		Fingerprint: c.Fingerprint, StartedAt: Micros(c.StartedAt),
	})
}

// After is a text that is greater than every name that begins with prefix, byte by byte.
func After(prefix string) string { return prefix + "\U0010FFFF" }

// Seen is the row as LeasesOf tells it; now is the database's clock.
func (known Lease) Seen(now int64) firerunner.Lease {
	l := known.Lease()
	l.Over = known.Until <= now
	return l
}
