package control

import (
	"context"
	"errors"
	"time"

	"github.com/firerunner/firerunner"
)

// LeftoverKind says what is without its other half.
type LeftoverKind string

// The kinds. Addresses are not among them: an address belongs to a live runner's row and to nothing else, so one without
// a row cannot be.
const (
	LeftMicroVM      LeftoverKind = "microvm"       // a microVM, or what is left of one, without a live runner
	LeftRunner       LeftoverKind = "runner"        // a live runner whose microVM is not there any more
	LeftGitLabRunner LeftoverKind = "gitlab_runner" // a runner in GitLab with our marker, without a live runner here
)

// Leftover is one thing that the reaper found.
type Leftover struct {
	Kind     LeftoverKind
	ID       string    // the runner's, which its microVM has too
	Host     string    // where the microVM is, or was
	GitLabID int64     // of a runner in GitLab
	Born     time.Time // zero: nobody knows
	Why      string    // what is missing
	Err      error     // why it could not be removed; nil: it was, or nobody tried
}

// ReapOptions are how the reaper goes about it.
type ReapOptions struct {
	DryRun bool          // say what would be removed, and remove nothing
	Grace  time.Duration // what is younger is left alone
	// HostsOnly leaves GitLab alone: another controller of the site looks there.
	HostsOnly bool
	// GitLabOnly leaves hosts alone: for a driver whose microVMs only the daemon sees.
	GitLabOnly bool
}

// young reports whether something is too young to be judged.
func (o ReapOptions) young(born, now time.Time) bool {
	return o.Grace > 0 && !born.IsZero() && now.Sub(born) < o.Grace
}

// ReapOnce looks once for what has no owner and for owners of nothing, and removes or ends it: microVMs and remains of
// microVMs, live runners whose microVM is gone, and runners in GitLab that carry our marker. It may run beside a daemon on
// the same store, because each row is written before what it owns, is read after what was found, and is read again
// before anything is removed. What was found is returned beside the error.
func (c *Control) ReapOnce(ctx context.Context, o ReapOptions) ([]Leftover, error) {
	var here []Leftover
	var hereErr error
	if !o.GitLabOnly {
		here, hereErr = c.reapHosts(ctx, o)
	}
	if o.HostsOnly {
		return here, hereErr
	}
	there, thereErr := c.reapGitLab(ctx, o)
	return append(here, there...), errors.Join(hereErr, thereErr)
}

// disowned reports whether no live runner has that ID now.
func (c *Control) disowned(ctx context.Context, id string) (bool, error) {
	r, err := c.Store.Runner(ctx, id)
	if firerunner.CodeOf(err) == firerunner.NotFound {
		return true, nil
	}
	return !r.Live(), err
}

// bornAt is when a microVM was made, as its driver or its name says.
func (c *Control) bornAt(vm firerunner.MicroVM) time.Time {
	if !vm.CreatedAt.IsZero() {
		return vm.CreatedAt
	}
	return bornAt(vm.ID, c.Now())
}
