package main

import (
	"context"
	"sync"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/flintlock"
)

// desks is the one desk at which guests call, in front of those of the controllers that this process acts for. A guest
// whose controller nobody acts for yet is told to call again: to call it a stranger would end its job.
type desks struct {
	holds  func(controller string) bool // whether we surely have its lease
	ledger firerunner.Ledger

	mu  sync.Mutex
	own string
	all map[string]*flintlock.Driver
}

var _ firerunner.GuestDesk = (*desks)(nil)

func (s *desks) add(controller string, driver *flintlock.Driver) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[string]*flintlock.Driver{}
	}
	s.all[controller] = driver
}

func (s *desks) remove(controller string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, controller)
}

// of returns the desk that knows a microVM; nil if none does.
func (s *desks) of(id string) (desk *flintlock.Driver, controller string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, driver := range s.all {
		if driver.Knows(id) {
			return driver, name
		}
	}
	return nil, ""
}

// find is of for who is to be let in, or to be believed: only under a lease that is ours.
func (s *desks) find(ctx context.Context, id string) (firerunner.GuestDesk, error) {
	desk, controller := s.of(id)
	if desk == nil {
		if _, err := s.ledger.VM(ctx, id); firerunner.CodeOf(err) != firerunner.NotFound {
			return nil, firerunner.Errorf(firerunner.Unavailable, "nobody acts for the controller of microVM %.80q here yet", id)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.all[s.own], nil // who says that it is a stranger
	}
	if !s.holds(controller) {
		return nil, firerunner.Errorf(firerunner.Unavailable, "the lease of controller %q is not surely ours", controller)
	}
	return desk, nil
}

// Admit implements firerunner.GuestDesk.
func (s *desks) Admit(ctx context.Context, id string, token firerunner.Secret) (firerunner.GuestStart, firerunner.Secret, error) {
	desk, err := s.find(ctx, id)
	if err != nil {
		return firerunner.GuestStart{}, "", err
	}
	return desk.Admit(ctx, id, token)
}

// Return implements firerunner.GuestDesk.
func (s *desks) Return(ctx context.Context, id string, session firerunner.Secret) (int64, error) {
	desk, err := s.find(ctx, id)
	if err != nil {
		return 0, err
	}
	return desk.Return(ctx, id, session)
}

// Record implements firerunner.GuestDesk.
func (s *desks) Record(ctx context.Context, id string, number int64, r firerunner.GuestReport) error {
	desk, err := s.find(ctx, id)
	if err != nil {
		return err
	}
	return desk.Record(ctx, id, number, r)
}

// Alive implements firerunner.GuestDesk.
func (s *desks) Alive(id string) {
	if desk, _ := s.of(id); desk != nil {
		desk.Alive(id)
	}
}

// Print implements firerunner.GuestDesk.
func (s *desks) Print(id string, text []byte) {
	if desk, _ := s.of(id); desk != nil {
		desk.Print(id, text)
	}
}

// Orders implements firerunner.GuestDesk.
func (s *desks) Orders(id string) <-chan firerunner.GuestOrder {
	if desk, _ := s.of(id); desk != nil {
		return desk.Orders(id)
	}
	closed := make(chan firerunner.GuestOrder)
	close(closed)
	return closed
}
