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
	gone := bearers
	for _, l := range leases {
		name := strings.TrimPrefix(l.Name, firerunner.ControllerLeases)
		if l.Over {
			gone = append(gone, name)
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
		errs = append(errs, k.take(ctx, name, k.CanStandIn != nil && k.CanStandIn(who)))
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

// take stands in for one, or buries what it was doing where we cannot.
func (k *Keeper) take(ctx context.Context, name string, able bool) error {
	k.mu.Lock()
	done := k.buried[name]
	k.mu.Unlock()
	if !able && (done || k.Bury == nil) {
		return nil
	}
	began := time.Now()
	l, ok, err := k.Leases.Acquire(ctx, firerunner.LeaseOf(name), StandIn(k.Holder), k.TTL)
	if err != nil || !ok { // somebody was faster, or it is back
		return err
	}
	if !able {
		err := k.Bury(ctx, name)
		if err == nil {
			k.mu.Lock()
			k.buried[name] = true
			k.mu.Unlock()
			k.Logger.Warn("a controller is away, and nobody else reaches its microVMs", "controller", name)
		}
		return errors.Join(err, k.Leases.Release(ctx, l))
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
