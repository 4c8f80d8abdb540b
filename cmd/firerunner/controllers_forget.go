package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/peers"
)

// forgetting is how long the lease of a controller that is forgotten is held, at most: a process of its name waits for it.
const forgetting = 10 * time.Second

// forgetController forgets one that is away and of which nothing is left. It does so under that one's lease, so that neither
// the controller itself nor one that stands in for it begins meanwhile; and lets the lease be over, not released: the others
// take up steps of a controller whose lease is over.
func forgetController(ctx context.Context, cfg *config.Config, store *openedStore, name string) (err error) {
	c, err := awayController(ctx, cfg, store, name)
	if err != nil {
		return err
	}
	if err := nothingLeft(ctx, cfg, store, c); err != nil {
		return err
	}
	l, ok, err := store.Acquire(ctx, firerunner.LeaseOf(name), peers.StandIn(fmt.Sprint("an operator on ", machineName(), "/", time.Now().UnixNano())), forgetting)
	if err != nil {
		return err
	}
	if !ok {
		return firerunner.Errorf(firerunner.Conflict, "controller %q is not away any more: %s has its lease", name, l.Holder).
			WithHint("firerunner controllers list")
	}
	defer func() {
		_, ended := store.Renew(context.WithoutCancel(ctx), l, time.Microsecond)
		if firerunner.CodeOf(ended) != firerunner.Conflict { // otherwise it has expired
			err = errors.Join(err, ended)
		}
	}()
	if err := nothingLeft(ctx, cfg, store, c); err != nil { // nothing can come from now on
		return err
	}
	if err := store.ForgetController(ctx, name); err != nil {
		return err
	}
	return store.Update(ctx, func(tx firerunner.Tx) error {
		return tx.AddEvent(ctx, firerunner.Event{
			At: time.Now(), Kind: firerunner.EventDaemon, Actor: "operator", Message: fmt.Sprintf("controller %q: forgotten, by an operator", name),
		})
	})
}

// awayController is a controller for which nobody acts.
func awayController(ctx context.Context, cfg *config.Config, store *openedStore, name string) (firerunner.Controller, error) {
	seen, err := peers.See(ctx, store, store)
	if err != nil {
		return firerunner.Controller{}, err
	}
	at := slices.IndexFunc(seen, func(s peers.Seen) bool { return s.Name == name })
	if at < 0 {
		err := firerunner.Errorf(firerunner.NotFound, "there is no controller %q", name)
		if path := cfg.SQLitePath(); path != "" {
			return firerunner.Controller{}, err.WithHint("one process alone serves a file, %s: there are no others", path)
		}
		return firerunner.Controller{}, err.WithHint("firerunner controllers list")
	}
	switch s := seen[at]; s.State {
	case peers.Away:
		return s.Controller, nil
	case peers.StoodInFor:
		return s.Controller, firerunner.Errorf(firerunner.Conflict, "controller %q stands in for controller %q: something of it is left", s.By, name).
			WithHint("wait until its last runners have ended; then nobody stands in for it any more")
	default:
		return s.Controller, firerunner.Errorf(firerunner.Conflict, "controller %q serves, on %s", name, s.Machine).
			WithHint("end it; with nothing left it forgets itself")
	}
}

// nothingLeft fails with Conflict where something of a controller is left, and says what helps.
func nothingLeft(ctx context.Context, cfg *config.Config, store *openedStore, c firerunner.Controller) error {
	runners, err := runnersBy(ctx, store)
	if err != nil {
		return err
	}
	if n := runners[c.Name]; n > 0 {
		return firerunner.Errorf(firerunner.Conflict, "%d live runners bear the name of controller %q", n, c.Name).
			WithHint("start it again and they go on; otherwise wait: each ends at its deadline, and its record is closed when its microVM is over for certain")
	}
	vms, err := store.VMs(ctx, partitionOfDriver(ledgerDriver(cfg, c), c.Name))
	if err != nil {
		return err
	}
	if len(vms) > 0 {
		return firerunner.Errorf(firerunner.Conflict, "%d microVMs are in the ledger of controller %q, the first on host %s", len(vms), c.Name, vms[0].Host).
			WithHint("start it again, or one with the same hosts that stands in for it: it removes them")
	}
	hosts, err := store.Hosts(ctx)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		if h.Controller == c.Name && h.Driver != config.DriverFlintlock { // those are reached by others too
			return firerunner.Errorf(firerunner.Conflict, "host %s is the machine of controller %q", h.Name, c.Name).
				WithHint("firerunner hosts rm %s", h.Name)
		}
	}
	return nil
}

// ledgerDriver is the driver by whose part of the ledger a controller's microVMs are known.
func ledgerDriver(cfg *config.Config, c firerunner.Controller) string {
	if c.Driver == "" {
		return cfg.Driver
	}
	return c.Driver
}
