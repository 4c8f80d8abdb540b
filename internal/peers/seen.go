package peers

import (
	"context"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

// State is what can be seen of a controller from outside.
type State string

// What a controller can be seen to do.
const (
	Leads      State = "leads"        // it serves, and has the lease of the site
	Serves     State = "serves"       // its lease is its own
	StoodInFor State = "stood in for" // another acts under its lease
	Away       State = "away"         // nobody acts for it
)

// Seen is a controller as whoever reads the database sees it, such as an operator.
type Seen struct {
	firerunner.Controller
	State  State
	By     string    // of StoodInFor: the controller that does
	Since  time.Time // it is so; zero: not known
	Holder string    // of its lease, while it is in force: the mark of a process
}

// standsIn ends the holder of a lease that is another controller's than the holder's own. So whoever reads the leases knows
// which of a holder's is its own.
const standsIn = " (stands in)"

// StandIn is the holder of the leases of those for whom a holder stands in.
func StandIn(holder string) string { return holder + standsIn }

// See returns every controller that is registered, by name.
func See(ctx context.Context, leases firerunner.Leases, registry firerunner.Registry) ([]Seen, error) {
	// In this order: who registers has a lease already.
	known, err := registry.Controllers(ctx)
	if err != nil {
		return nil, err
	}
	had, err := leases.LeasesOf(ctx, firerunner.ControllerLeases)
	if err != nil {
		return nil, err
	}
	site, err := leases.LeasesOf(ctx, firerunner.SiteLease)
	if err != nil {
		return nil, err
	}
	leader := ""
	for _, l := range site {
		if l.Name == firerunner.SiteLease && !l.Over {
			leader = l.Holder
		}
	}
	of, names := map[string]firerunner.Lease{}, map[string]string{} // by controller; by the holder of its own
	for _, l := range had {
		name := strings.TrimPrefix(l.Name, firerunner.ControllerLeases)
		of[name] = l
		if !l.Over && !strings.HasSuffix(l.Holder, standsIn) {
			names[l.Holder] = name
		}
	}
	seen := make([]Seen, 0, len(known))
	for _, c := range known {
		l, there := of[c.Name]
		s := Seen{Controller: c, State: Away}
		if there && !l.Over {
			s.Holder = l.Holder
		}
		other, standIn := strings.CutSuffix(s.Holder, standsIn)
		switch {
		case s.Holder == "":
			s.Since = l.Until
		case standIn:
			s.State, s.By = StoodInFor, other
			if name, ok := names[other]; ok {
				s.By = name
			}
		case s.Holder == leader:
			s.State, s.Since = Leads, c.StartedAt
		default:
			s.State, s.Since = Serves, c.StartedAt
		}
		seen = append(seen, s)
	}
	return seen, nil
}
