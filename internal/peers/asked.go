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

// Away reports whether nobody acted for a controller when we looked last.
func (k *Keeper) Away(controller string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.looked && !k.held[controller]
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

// Rest ends leading and standing in: what we stood in for is over at once, for others to take. Our own lease goes on.
func (k *Keeper) Rest(ctx context.Context) error {
	k.blind()
	k.looking.Wait()
	k.mu.Lock()
	k.serves = false
	k.mu.Unlock()
	var errs []error
	for _, name := range k.standsInFor() {
		errs = append(errs, k.leave(ctx, name))
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
	own, site := k.own, k.site
	k.own, k.site, k.ended = grip{}, grip{}, true
	k.mu.Unlock()
	if site.Epoch != 0 {
		errs = append(errs, k.Leases.Release(ctx, site.Lease))
	}
	switch {
	case own.Epoch == 0:
	case empty:
		errs = append(errs, k.Registry.ForgetController(ctx, k.Self.Name), k.Leases.Release(ctx, own.Lease))
	default:
		errs = append(errs, k.expire(ctx, own))
	}
	return errors.Join(errs...)
}

// leave ends standing in for one whose runners others are to take over.
func (k *Keeper) leave(ctx context.Context, name string) error {
	if err := k.GiveBack(ctx, name); err != nil {
		return err
	}
	k.mu.Lock()
	g := *k.standing[name]
	delete(k.standing, name)
	k.mu.Unlock()
	if g.Epoch == 0 {
		return nil
	}
	return k.expire(ctx, g)
}

// expire lets a lease be over now.
func (k *Keeper) expire(ctx context.Context, g grip) error {
	_, err := k.Leases.Renew(ctx, g.Lease, time.Microsecond)
	if firerunner.CodeOf(err) == firerunner.Conflict {
		return nil // it is over already
	}
	return err
}
