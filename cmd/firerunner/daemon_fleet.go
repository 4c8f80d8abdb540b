package main

import (
	"context"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/driver/flintlock"
	"github.com/firerunner/firerunner/internal/guest"
)

// longestBreak is how long a host that does not answer is left alone at most. It is never longer than the next sign of life
// is away: else that would be no question.
const longestBreak = 10 * time.Second

// openFleet makes the driver for hosts that run flintlockd, and the endpoint at which their guests call. Its key and
// certificate stay the same over restarts: guests that run know it by its fingerprint.
func (d *daemon) openFleet(ctx context.Context) error {
	certificate, err := guest.LoadCertificate(filepath.Join(d.cfg.StateDir, "guest"))
	if err != nil {
		return err
	}
	g := d.cfg.Guest
	listener, err := net.Listen("tcp", net.JoinHostPort(g.Host, strconv.Itoa(g.Port)))
	if err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "listening for guests: %w", err).
			WithHint("choose another guest.port, or end what listens there")
	}
	d.guestListener = listener
	d.onClose(func() { _ = listener.Close() }) // where it was never served
	d.fingerprint = guest.Fingerprint(certificate)
	d.reached.Store(reachedHosts(fleet(d.cfg.Config)))
	driver, err := d.fleetDriver(ctx, d.controllerName())
	if err != nil {
		return err
	}
	d.driver, d.fleet = driver, driver
	d.onClose(func() { d.logError("closing the driver", driver.Close()) })
	d.desks.own, d.desks.ledger = d.controllerName(), d.store
	d.desks.holds = func(controller string) bool { return d.keeper == nil || d.keeper.Holds(controller) }
	d.desks.add(d.controllerName(), driver)
	d.guests, err = guest.NewEndpoint(guest.EndpointConfig{Desk: &d.desks, Certificate: certificate, Now: d.now, Logger: d.log})
	return err
}

// fleetDriver makes the driver that has a controller's microVMs: our own, or those of one for which we stand in. Their
// guests call us in either case, and know of the other controllers.
func (d *daemon) fleetDriver(ctx context.Context, controller string) (*flintlock.Driver, error) {
	return flintlock.New(ctx, flintlock.Config{
		Name: d.cfg.Driver, Namespace: namespaceOf(d.installation, controller), Partition: partitionOf(d.cfg.Config, controller), Hosts: slices.Collect(maps.Values(*d.reached.Load())), Ledger: d.store,
		GuestURL: d.cfg.Guest.Endpoint(), GuestFingerprint: d.fingerprint, Others: d.otherDoors, Now: d.now,
		Outside: provisioner(d.log).Outside, AllowTags: false, CallTimeout: d.cfg.Flintlock.ProbeTimeout, ConsoleBytes: d.cfg.VM.ConsoleKiB << 10, Logger: d.log,
		HeartbeatTimeout: d.cfg.Guest.SilentAfter,
		BreakFor:         min(d.cfg.Flintlock.ProbeInterval, longestBreak),
	})
}

// otherDoors are where guests may call when we are away.
func (d *daemon) otherDoors() []flintlock.Door {
	if d.keeper == nil {
		return nil
	}
	var doors []flintlock.Door
	for _, c := range d.keeper.Others() {
		if c.Endpoint != "" {
			doors = append(doors, flintlock.Door{Endpoint: c.Endpoint, Fingerprint: c.Fingerprint})
		}
	}
	return doors
}

// serveGuests takes guests' calls until the daemon is closed.
func (d *daemon) serveGuests() {
	if d.guests == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := d.guests.Serve(ctx, d.guestListener); err != nil {
			d.failed <- err
		}
	}()
	d.onClose(func() { cancel(); <-done })
}

// fleet is the configured hosts as the driver wants them.
func fleet(cfg *config.Config) []flintlock.Host {
	var hosts []flintlock.Host
	for _, h := range cfg.Fleet() {
		hosts = append(hosts, flintlock.Host{
			Name: h.Name, Endpoint: h.Endpoint, Token: h.Token, TLS: flintlock.TLS(h.TLS),
			Bridge: h.Bridge, StateDir: h.StateDir, GuestURL: h.PublicAddress, Image: h.OCI(),
		})
	}
	return hosts
}

// fleetImage is the image of that name for hosts that pull it. Where each host has references of its own, nothing of it
// has to be on this machine.
func (d *daemon) fleetImage(ctx context.Context, name string) (firerunner.Image, error) {
	image, err := d.images.Resolve(ctx, name)
	if firerunner.CodeOf(err) != firerunner.NotFound {
		return image, err
	}
	for _, h := range d.inForce.Load().Fleet() {
		if h.KernelImage == "" || h.RootFSImage == "" {
			return image, err
		}
	}
	return firerunner.Image{Name: name}, nil
}

// fit is the rule for sizes that the driver has, if any.
func (d *daemon) fit() func(firerunner.Size) (firerunner.Size, string) {
	if d.cfg.Driver == config.DriverFlintlock {
		return firerunner.FitFlintlock
	}
	return nil
}
