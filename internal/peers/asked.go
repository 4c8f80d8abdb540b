package peers

import (
	"context"
	"errors"
	"time"

	"github.com/firerunner/firerunner"
)

// Under fails with Conflict unless a controller's lease is ours and in force; then it is until the transaction has ended.
// It is the first thing in a transaction.
func (k *Keeper) Under(ctx context.Context, tx firerunner.Tx, controller string) error {
	fence, ok := tx.(firerunner.Fence)
	if !ok {
		return firerunner.Errorf(firerunner.Internal, "this store has no leases")
	}
	g, ok := k.grip(controller)
	if !ok {
		return firerunner.Errorf(firerunner.Conflict, "the lease of controller %q is not ours any more", controller)
	}
	return fence.Under(ctx, g.Lease)
}

func (k *Keeper) grip(controller string) (grip, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if controller == k.Self.Name {
		return k.own, k.own.Epoch != 0
	}
	g := k.standing[controller]
	if g == nil {
		return grip{}, false
	}
	return *g, g.Epoch != 0
}

// Holds reports whether a controller's lease is surely ours now, as far as can be known without asking. Who does something
// outside of the database asks first.
func (k *Keeper) Holds(controller string) bool {
	g, ok := k.grip(controller)
	return ok && g.firm(time.Now())
}

// Leads reports whether the site's lease is ours.
func (k *Keeper) Leads() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.site.firm(time.Now())
}

// Away reports whether nobody acted for a controller when we looked last. While we may have been cut off ourselves nobody is
// called away.
func (k *Keeper) Away(controller string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.looked && k.calm() && !k.held[controller]
}

// Others are the controllers that were there when we looked last, without us.
func (k *Keeper) Others() []firerunner.Controller {
	k.mu.Lock()
	defer k.mu.Unlock()
	var others []firerunner.Controller
	for _, c := range k.known {
		if c.Name != k.Self.Name && k.held[c.Name] && k.standing[c.Name] == nil {
			others = append(others, c)
		}
	}
	return others
}

// StandsInFor is how many controllers we stand in for.
func (k *Keeper) StandsInFor() int { return len(k.standsInFor()) }

// Rest ends leading and standing in: both are over at once, for others to take. Our own lease goes on.
func (k *Keeper) Rest(ctx context.Context) error {
	k.blind()
	k.looking.Wait()
	k.mu.Lock()
	site := k.site
	k.site = grip{}
	k.mu.Unlock()
	var errs []error
	if site.Epoch != 0 {
		errs = append(errs, k.release(ctx, site))
	}
	for _, name := range k.standsInFor() {
		errs = append(errs, k.letGo(ctx, name, "this controller rests", k.expire))
	}
	return errors.Join(errs...)
}

// Leave ends the Keeper. Our own lease is given up if nothing of us is left; otherwise it is over at once, so that the
// others need not wait until it is.
func (k *Keeper) Leave(ctx context.Context, empty bool) error {
	errs := []error{k.Rest(ctx)}
	k.cancel()
	k.running.Wait()
	k.mu.Lock()
	own := k.own
	k.own, k.ended = grip{}, true
	k.mu.Unlock()
	switch {
	case own.Epoch == 0:
	case empty:
		errs = append(errs, k.Registry.ForgetController(ctx, k.Self.Name), k.release(ctx, own))
	default:
		errs = append(errs, k.expire(ctx, own))
	}
	return errors.Join(errs...)
}

func (k *Keeper) release(ctx context.Context, g grip) error { return k.Leases.Release(ctx, g.Lease) }

// expire lets a lease be over now.
func (k *Keeper) expire(ctx context.Context, g grip) error {
	_, err := k.Leases.Renew(ctx, g.Lease, time.Microsecond)
	if firerunner.CodeOf(err) == firerunner.Conflict {
		return nil // it is over already
	}
	return err
}
