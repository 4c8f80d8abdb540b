package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/driver/flintlock"
	"github.com/firerunner/firerunner/internal/image"
)

// fleet looks at every host that runs flintlockd: is it reached, does it take our token, does it speak our API, and are
// the images there that it would pull? With --deep each makes a microVM too, whose guest has to call: see probe. Hosts are
// looked at together, and told of in their order.
func (e *examination) fleet(ctx context.Context) []finding {
	if e.cfg.Driver != config.DriverFlintlock {
		return nil
	}
	var found []finding
	if e.cfg.Guest.PublicAddress == "" {
		found = append(found, finding{
			Verdict: warn, Found: "guests are not told where to call", Remedy: "set guest.public_address, or guest_address for each host",
		})
	}
	hosts := fleet(e.cfg)
	if len(hosts) == 0 {
		return append(found, finding{Verdict: fail, Found: "there is no host", Remedy: "list them below hosts, or set flintlock.endpoint"})
	}
	var desk *probeDesk
	if e.deep {
		var trouble []finding
		desk, trouble = e.openProbeDesk(ctx)
		found = append(found, trouble...)
		defer desk.close()
	} else {
		found = append(found, finding{
			Verdict: skip, Found: "whether guests start and reach FireRunner (bridge, address, firewall), hosts' clocks and resync periods: flintlockd's API does not tell",
			Remedy: "firerunner doctor --deep",
		})
	}
	of := make([][]finding, len(hosts))
	var looking sync.WaitGroup
	for i, h := range hosts {
		looking.Go(func() { of[i] = e.host(ctx, desk, h) })
	}
	looking.Wait()
	return append(found, slices.Concat(of...)...)
}

// host looks at one; desk is nil unless it is to make microVMs.
func (e *examination) host(ctx context.Context, desk *probeDesk, h flintlock.Host) []finding {
	x, err := flintlock.Examine(flintlock.Config{CallTimeout: e.cfg.Flintlock.ProbeTimeout}, h)
	if err != nil {
		return []finding{failing(err, "correct the host in the configuration")}
	}
	defer func() { _ = x.Close() }()
	if err := x.Alive(ctx); err != nil {
		return []finding{failing(err, "is flintlockd running there?")}
	}
	found := []finding{{Verdict: good, Found: fmt.Sprintf("%s (%s) answers and takes our token", h.Name, h.Endpoint)}}
	switch names, ok, err := x.Services(ctx); {
	case err != nil:
		found = append(found, finding{Verdict: warn, Found: fmt.Sprintf("%s: its API is not known: %v", h.Name, err), Remedy: firerunner.HintOf(err)})
	case !ok:
		found = append(found, finding{
			Verdict: fail, Found: fmt.Sprintf("%s serves %s", h.Name, strings.Join(names, ", ")), Remedy: "flintlockd 0.6 or newer is needed, and its gRPC port",
		})
	default:
		found = append(found, finding{Verdict: good, Found: h.Name + " speaks microvm.services.api.v1alpha1"})
	}
	return append(found, e.pulled(ctx, x, desk, h)...)
}

// pulled looks for what a host would pull for each image, as the host does: without credentials.
func (e *examination) pulled(ctx context.Context, x *flintlock.Examination, desk *probeDesk, h flintlock.Host) []finding {
	host := h.Name
	var found []finding
	d := daemon{cfg: daemonConfig{Config: e.cfg}, images: &image.Store{Dir: e.cfg.Image.Dir}}
	d.inForce.Store(e.cfg)
	seen := map[string]bool{}
	for _, p := range e.cfg.ProfileList() {
		if seen[p.Image] {
			continue
		}
		seen[p.Image] = true
		img, err := d.fleetImage(ctx, p.Image)
		if err != nil {
			found = append(found, failing(err, "firerunner image build, then firerunner image push"))
			continue
		}
		refs := x.Images(img)
		var missing error
		for _, ref := range refs {
			if err := image.Anonymous().Check(ctx, ref); err != nil {
				missing = errors.Join(missing, err)
			}
		}
		switch {
		case len(refs) == 0:
			found = append(found, finding{
				Verdict: fail, Found: fmt.Sprintf("%s: nothing says where it pulls image %s from", host, p.Image),
				Remedy: "firerunner image push, and set flintlock.kernel_image and the others to what it prints",
			})
			continue
		case missing != nil:
			found = append(found, finding{
				Verdict: warn, Found: fmt.Sprintf("%s: what it pulls for image %s is not seen from here: %v", host, p.Image, missing),
				Remedy: "hosts pull without credentials; --deep has the host try",
			})
		default:
			found = append(found, finding{Verdict: good, Found: fmt.Sprintf("%s: image %s can be pulled without credentials", host, p.Image)})
		}
		if desk != nil {
			resync := e.resync
			if len(seen) > 1 { // it is the host's, and was measured with the first image
				resync = 0
			}
			found = append(found, e.probe(ctx, x, desk, h, img, resync)...)
		}
	}
	return found
}
