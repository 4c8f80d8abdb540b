package peers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

// keepStanding renews the leases of those that we stand in for. One that cannot be renewed is over, and what was done under
// it is ended by the next look.
func (k *Keeper) keepStanding(ctx context.Context) error {
	var errs []error
	for _, name := range k.standsInFor() {
		g, ok := k.grip(name)
		if !ok || g.Epoch == 0 {
			continue
		}
		began := time.Now()
		renewing, cancel := context.WithTimeout(ctx, k.TTL)
		l, err := k.renewLease(renewing, g.Lease)
		cancel()
		if err != nil && firerunner.CodeOf(err) != firerunner.Conflict {
			errs = append(errs, err)
			continue
		}
		k.mu.Lock()
		if at := k.standing[name]; at != nil && at.Epoch == g.Epoch {
			at.Lease, at.sure = l, began.Add(k.TTL)
			if err != nil {
				at.Lease, at.sure = firerunner.Lease{}, time.Time{}
			}
		}
		k.mu.Unlock()
	}
	return errors.Join(errs...)
}

func (k *Keeper) standsInFor() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(maps.Keys(k.standing))
}

// lookAround reads who is there.
func (k *Keeper) lookAround(ctx context.Context) error {
	leases, err := k.Leases.LeasesOf(ctx, firerunner.ControllerLeases)
	if err != nil {
		return err
	}
	known, err := k.Registry.Controllers(ctx)
	if err != nil {
		return err
	}
	held := map[string]bool{}
	for _, l := range leases {
		if !l.Over {
			held[strings.TrimPrefix(l.Name, firerunner.ControllerLeases)] = true
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.held, k.known, k.looked = held, known, true
	for name := range held {
		delete(k.buried, name)
	}
	return nil
}

// relieve stands in for controllers whose leases are over, and for those of which nothing but live runners is left.
func (k *Keeper) relieve(ctx context.Context) error {
	k.mu.Lock()
	calm := k.calm()
	known := k.known
	k.mu.Unlock()
	if !calm {
		return nil
	}
	bearers, err := k.Bearers(ctx)
	if err != nil {
		return err
	}
	leases, err := k.Leases.LeasesOf(ctx, firerunner.ControllerLeases)
	if err != nil {
		return err
	}
	claims, err := k.claims(ctx)
	if err != nil {
		return err
	}
	gone, last := bearers, map[string]firerunner.Lease{}
	for _, l := range leases {
		name := strings.TrimPrefix(l.Name, firerunner.ControllerLeases)
		if l.Over {
			gone, last[name] = append(gone, name), l
		} else {
			gone = slices.DeleteFunc(gone, func(n string) bool { return n == name })
		}
	}
	slices.Sort(gone)
	var errs []error
	for _, name := range slices.Compact(gone) {
		if name == k.Self.Name || claims[name] || slices.Contains(k.standsInFor(), name) {
			continue // what was begun under a lease that is over is ended first: see giveBack
		}
		at := slices.IndexFunc(known, func(c firerunner.Controller) bool { return c.Name == name })
		who := firerunner.Controller{Name: name}
		if at >= 0 {
			who = known[at]
		}
		if k.CanStandIn != nil && k.CanStandIn(who) {
			errs = append(errs, k.take(ctx, name))
		} else {
			errs = append(errs, k.bury(ctx, name, last[name]))
		}
	}
	return errors.Join(errs...)
}

// claims are the controllers that ask for their own lease.
func (k *Keeper) claims(ctx context.Context) (map[string]bool, error) {
	leases, err := k.Leases.LeasesOf(ctx, claimPrefix)
	if err != nil {
		return nil, err
	}
	claims := map[string]bool{}
	for _, l := range leases {
		if !l.Over {
			claims[strings.TrimPrefix(l.Name, claimPrefix)] = true
		}
	}
	return claims, nil
}

// buryWithin is for how long after a controller's death each of the others takes up what it was doing. What is left then,
// because some of them died over it, the queue has found by itself.
const buryWithin = 10 * time.Minute

// bury takes up what a controller was doing for which we cannot stand in. Its lease is let expire as it was, not given up:
// something of the controller is left, and an operator wants to know since when nobody sees to it.
func (k *Keeper) bury(ctx context.Context, name string, last firerunner.Lease) error {
	k.mu.Lock()
	done := k.buried[name]
	k.mu.Unlock()
	// Only after another has had it is the holder of a lease that is over one who stands in: it was buried then.
	if strings.HasSuffix(last.Holder, standsIn) && k.Now().Sub(last.Until) > buryWithin {
		done = true
	}
	if done || k.Bury == nil {
		return nil
	}
	l, ok, err := k.Leases.Acquire(ctx, firerunner.LeaseOf(name), StandIn(k.Holder), k.TTL)
	if err != nil || !ok { // somebody was faster, or it is back
		return err
	}
	if err = k.Bury(ctx, name); err == nil {
		k.mu.Lock()
		k.buried[name] = true
		k.mu.Unlock()
		k.Logger.Warn("a controller is away, and nobody else reaches its microVMs", "controller", name)
	}
	return errors.Join(err, k.expire(ctx, grip{Lease: l}))
}

// take stands in for one.
func (k *Keeper) take(ctx context.Context, name string) error {
	began := time.Now()
	l, ok, err := k.Leases.Acquire(ctx, firerunner.LeaseOf(name), StandIn(k.Holder), k.TTL)
	if err != nil || !ok { // somebody was faster, or it is back
		return err
	}
	k.mu.Lock()
	k.standing[name] = &grip{Lease: l, sure: began.Add(k.TTL)}
	k.mu.Unlock()
	k.Logger.Warn("a controller is away: this one stands in for it", "controller", name, "by", k.Self.Name)
	if err := k.StandIn(ctx, name); err != nil {
		k.mu.Lock()
		k.standing[name].failed = true
		k.mu.Unlock()
		return errors.Join(fmt.Errorf("standing in for controller %q: %w", name, err), k.letGo(ctx, name, "it could not be done", k.expire))
	}
	return nil
}

// giveBack lets go of those who ask for their own, and of those of whom nothing is left.
func (k *Keeper) giveBack(ctx context.Context) error {
	names := k.standsInFor()
	if len(names) == 0 {
		return nil
	}
	claims, err := k.claims(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		g, _ := k.grip(name)
		switch {
		case claims[name]:
			errs = append(errs, k.letGo(ctx, name, "it is back", k.expire))
			continue
		case g.failed:
			errs = append(errs, k.letGo(ctx, name, "it could not be done", k.expire))
			continue
		case g.Epoch == 0:
			errs = append(errs, k.letGo(ctx, name, "its lease is over", k.expire))
			continue
		}
		left, err := k.Left(ctx, name)
		if err == nil && !left {
			err = k.letGo(ctx, name, "nothing of it is left", k.release)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// letGo ends standing in for one, and then its lease: it is released only when nothing is left, since the others see one
// that is over, and whose it was, but not one that is released.
func (k *Keeper) letGo(ctx context.Context, name, why string, end func(context.Context, grip) error) error {
	if err := k.GiveBack(ctx, name); err != nil {
		return fmt.Errorf("giving controller %q back: %w", name, err) // tried again: the lease is kept until then
	}
	k.mu.Lock()
	g := k.standing[name]
	delete(k.standing, name)
	k.mu.Unlock()
	k.Logger.Info("no longer standing in for a controller", "controller", name, "why", why)
	if g == nil || g.Epoch == 0 {
		return nil
	}
	return end(ctx, *g)
}
