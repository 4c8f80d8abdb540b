package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/firerunner/firerunner"
)

// daemonStore is the store as a daemon reaches it.
type daemonStore struct {
	d *daemon
	*Memory
}

func (s daemonStore) turn(ctx context.Context, what string, counts bool) error {
	if err := s.d.turn(ctx, what, counts); err != nil {
		return err
	}
	if s.d.w.storeAway() || s.d.cutOff > 0 {
		return firerunner.Errorf(firerunner.Unavailable, "%s: the disk is full", what)
	}
	return nil
}

// Update implements firerunner.Store.
func (s daemonStore) Update(ctx context.Context, do func(firerunner.Tx) error) error {
	if err := s.turn(ctx, "store.update", true); err != nil {
		return err
	}
	s.d.w.writes = s.d
	err := s.Memory.Update(ctx, do)
	s.d.w.writes = nil
	if err != nil {
		return err
	}
	if s.d.w.strikes() {
		s.d.crash("store.update done")
		return errDead
	}
	if s.d.w.happens(0.2) { // somebody else may be quicker than whoever has just written
		return s.d.turn(ctx, "store.update done", true)
	}
	return nil
}

// Runner implements firerunner.Reader.
func (s daemonStore) Runner(ctx context.Context, id string) (firerunner.Runner, error) {
	if err := s.turn(ctx, "store.runner "+id, false); err != nil {
		return firerunner.Runner{}, err
	}
	return s.Memory.Runner(ctx, id)
}

// Runners implements firerunner.Reader.
func (s daemonStore) Runners(ctx context.Context, q firerunner.RunnerQuery) ([]firerunner.Runner, error) {
	if err := s.turn(ctx, fmt.Sprintf("store.runners %t %v %d", q.Live, q.Overdue, q.GitLabID), false); err != nil {
		return nil, err
	}
	return s.Memory.Runners(ctx, q)
}

// Job implements firerunner.Reader.
func (s daemonStore) Job(ctx context.Context, id int64) (firerunner.Job, error) {
	if err := s.turn(ctx, fmt.Sprint("store.job ", id), false); err != nil {
		return firerunner.Job{}, err
	}
	return s.Memory.Job(ctx, id)
}

// Jobs implements firerunner.Reader.
func (s daemonStore) Jobs(ctx context.Context, q firerunner.JobQuery) ([]firerunner.Job, error) {
	if err := s.turn(ctx, "store.jobs", false); err != nil {
		return nil, err
	}
	return s.Memory.Jobs(ctx, q)
}

// Hosts implements firerunner.Reader.
func (s daemonStore) Hosts(ctx context.Context) ([]firerunner.Host, error) {
	if err := s.turn(ctx, "store.hosts", false); err != nil {
		return nil, err
	}
	return s.Memory.Hosts(ctx)
}

// Projects implements firerunner.Reader.
func (s daemonStore) Projects(ctx context.Context, since time.Time) ([]firerunner.Project, error) {
	if err := s.turn(ctx, "store.projects", false); err != nil {
		return nil, err
	}
	return s.Memory.Projects(ctx, since)
}
