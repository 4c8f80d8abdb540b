package sim

import (
	"context"
	"time"

	"github.com/firerunner/firerunner"
)

// leaseTurn is a turn for what is said to the database about leases and controllers. It may take longer than a lease.
func (s daemonStore) leaseTurn(ctx context.Context, what string) error {
	if err := s.turn(ctx, what, true); err != nil || s.d.slow == 0 || !s.d.w.happens(0.5) {
		return err
	}
	wait := time.NewTimer(s.d.w.between(time.Second, 8*time.Second))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
	case <-s.d.died:
		return errDead
	}
	return s.turn(ctx, what+" at last", true)
}

// Acquire implements firerunner.Leases.
func (s daemonStore) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (firerunner.Lease, bool, error) {
	if err := s.leaseTurn(ctx, "lease.acquire "+name); err != nil {
		return firerunner.Lease{}, false, err
	}
	return s.Memory.Acquire(ctx, name, holder, ttl)
}

// Renew implements firerunner.Leases.
func (s daemonStore) Renew(ctx context.Context, l firerunner.Lease, ttl time.Duration) (firerunner.Lease, error) {
	if err := s.leaseTurn(ctx, "lease.renew "+l.Name); err != nil {
		return l, err
	}
	return s.Memory.Renew(ctx, l, ttl)
}

// LeasesOf implements firerunner.Leases.
func (s daemonStore) LeasesOf(ctx context.Context, prefix string) ([]firerunner.Lease, error) {
	if err := s.turn(ctx, "leases "+prefix, false); err != nil {
		return nil, err
	}
	return s.Memory.LeasesOf(ctx, prefix)
}

// Release implements firerunner.Leases.
func (s daemonStore) Release(ctx context.Context, l firerunner.Lease) error {
	if err := s.leaseTurn(ctx, "lease.release "+l.Name); err != nil {
		return err
	}
	return s.Memory.Release(ctx, l)
}

// SaveController implements firerunner.Registry.
func (s daemonStore) SaveController(ctx context.Context, c firerunner.Controller) error {
	if err := s.turn(ctx, "controller.save", true); err != nil {
		return err
	}
	return s.Memory.SaveController(ctx, c)
}

// Controllers implements firerunner.Registry.
func (s daemonStore) Controllers(ctx context.Context) ([]firerunner.Controller, error) {
	if err := s.turn(ctx, "controllers", false); err != nil {
		return nil, err
	}
	return s.Memory.Controllers(ctx)
}

// ForgetController implements firerunner.Registry.
func (s daemonStore) ForgetController(ctx context.Context, name string) error {
	if err := s.turn(ctx, "controller.forget", true); err != nil {
		return err
	}
	return s.Memory.ForgetController(ctx, name)
}
