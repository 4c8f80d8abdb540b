package main

import (
	"context"
	"fmt"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/flintlock"
)

// What a host's clock may be off, and what its resync period should be at least.
const (
	hostClockLimit = 2 * time.Second
	resyncLeast    = time.Minute
)

// probe has a host make a microVM, and waits until its guest has called FireRunner: only then are bridge, address,
// firewall, the image's agent and FireRunner's certificate right. With the hello comes the host's clock, which a microVM
// has until it is told the time. Each phase is told with its time, and each failure with what to do.
func (e *examination) probe(ctx context.Context, x *flintlock.Examination, desk *probeDesk, h flintlock.Host, img firerunner.Image, resync time.Duration) []finding {
	g, err := desk.expect()
	if err != nil {
		return []finding{failing(err, "try again")}
	}
	spec := flintlock.TrialSpec{ID: g.id, Image: img, Token: g.token, Address: e.probeAddress(h.Name)}
	if !desk.closed { // else it would call the daemon, which does not know it
		spec.GuestURL, spec.GuestFingerprint = h.GuestURL, desk.fingerprint
	}
	trial, err := x.Try(ctx, spec)
	if err != nil {
		return []finding{failing(err, "flintlockd's log on "+h.Name+" says why")}
	}
	found := []finding{{Verdict: good, Found: fmt.Sprintf("%s made a microVM of image %s: its process was started after %s", h.Name, img.Name, trial.Took.Round(time.Millisecond))}}
	switch {
	case desk.closed: // said once, for all hosts
	case h.GuestURL == "":
		found = append(found, finding{Verdict: skip, Found: h.Name + ": whether its guests reach FireRunner: they are not told where", Remedy: "set guest.public_address"})
	default:
		said, up := e.called(ctx, desk, g, h, img)
		found = append(found, said...)
		if up && resync > 0 {
			found = append(found, resyncPeriod(ctx, g, h.Name, resync))
		} else if up && e.resync == 0 {
			found = append(found, finding{
				Verdict: skip, Found: h.Name + ": its resync period is not asked for: it takes as long as it lasts", Remedy: "--deep --resync 25m, for flintlockd's default of 10m",
			})
		}
	}
	began := time.Now()
	if err := trial.Remove(ctx); err != nil {
		return append(found, failing(err, "see the log of flintlockd on "+h.Name))
	}
	return append(found, finding{Verdict: good, Found: fmt.Sprintf("%s removed it in %s", h.Name, time.Since(began).Round(time.Millisecond))})
}

// probeAddress is the last of a host's pool: runners take the first that is free.
func (e *examination) probeAddress(host string) firerunner.GuestNetwork {
	for _, row := range e.cfg.HostList() {
		if row.Name == host && !row.Addresses.Empty() {
			return row.Addresses.Network(row.Addresses.Last)
		}
	}
	return firerunner.GuestNetwork{}
}

// called waits for the guest's hello; up = false if none came.
func (e *examination) called(ctx context.Context, desk *probeDesk, g *probedGuest, h flintlock.Host, img firerunner.Image) (found []finding, up bool) {
	limit := e.cfg.Deadlines.Booting
	if limit <= 0 {
		limit = time.Minute
	}
	began := time.Now()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	var hello firerunner.GuestReport
	select {
	case hello = <-g.hello:
	case <-ctx.Done():
		return []finding{untried(firerunner.Errorf(firerunner.Unavailable, "%s: waiting for its guest was interrupted: %w", h.Name, context.Cause(ctx)))}, false
	case <-timer.C:
		if n := desk.strangers(); n > 0 {
			return []finding{{
				Verdict: fail, Found: fmt.Sprintf("%s: its guest did not say hello within %s; %d calls came to %s and broke off before", h.Name, limit, n, h.GuestURL),
				Remedy: "guests take this FireRunner's certificate alone: is a proxy between that ends TLS, or is the image's agent of another version (firerunner image build)?",
			}}, false
		}
		return []finding{{
			Verdict: fail, Found: fmt.Sprintf("%s: the guest of image %s did not call FireRunner at %s within %s", h.Name, img.Name, h.GuestURL, limit),
			Remedy: fmt.Sprintf("is %s this machine as the guest sees it (guest.public_address), is the microVM's interface on the bridge that leads there, does it get an address (hosts[].addresses, or DHCP), and does the firewall let it through (deploy/firerunner.nft)? deadlines.booting is how long is waited", h.GuestURL),
		}}, false
	}
	found = append(found, finding{Verdict: good, Found: fmt.Sprintf(
		"%s: its guest called FireRunner at %s %s later: bridge, address, firewall and certificate are right", h.Name, h.GuestURL, time.Since(began).Round(time.Millisecond))})
	return append(found, hostClock(h.Name, hello.ClockSkew)), true
}

// hostClock judges what a guest said of its host's clock.
func hostClock(host string, skew time.Duration) finding {
	switch {
	case skew == 0: // to the nanosecond: it said nothing
		return finding{Verdict: skip, Found: host + ": its clock: the image's agent does not tell", Remedy: "firerunner image build makes an image with this version's agent"}
	case skew.Abs() > hostClockLimit:
		return finding{
			Verdict: warn, Found: fmt.Sprintf("%s: its clock is off by %s", host, skew.Round(100*time.Millisecond)),
			Remedy: "keep it with chrony: its certificates and its log depend on it (guests are told the time by FireRunner)",
		}
	}
	return finding{Verdict: good, Found: fmt.Sprintf("%s: its clock is within %s of ours", host, hostClockLimit)}
}

// resyncPeriod measures how often flintlockd looks for microVMs that have died, by one that has: the guest had no work, and
// turned itself off. Between two times that it is booted again lies one period.
func resyncPeriod(ctx context.Context, g *probedGuest, host string, within time.Duration) finding {
	timer := time.NewTimer(within)
	defer timer.Stop()
	var first time.Time
	for {
		select {
		case at := <-g.ghost:
			if first.IsZero() {
				first = at
				continue
			}
			return judgeResync(host, at.Sub(first))
		case <-timer.C:
			if first.IsZero() {
				return finding{
					Verdict: warn, Found: fmt.Sprintf("%s: flintlockd did not boot a dead microVM again within %s: its resync period is longer, or it is off", host, within),
					Remedy: "start flintlockd with --resync-period 10m, its default: it also finds what it has failed to delete",
				}
			}
			return finding{Verdict: good, Found: fmt.Sprintf("%s: flintlockd boots dead microVMs again, and not twice within %s", host, within)}
		case <-ctx.Done():
			return untried(firerunner.Errorf(firerunner.Unavailable, "%s: measuring its resync period was interrupted: %w", host, context.Cause(ctx)))
		}
	}
}

func judgeResync(host string, period time.Duration) finding {
	found := fmt.Sprintf("%s: flintlockd's resync period is %s", host, period.Round(100*time.Millisecond))
	if period < resyncLeast {
		return finding{
			Verdict: warn, Found: found + ": a microVM that dies is often booted again before FireRunner has deleted it",
			Remedy: "start flintlockd with --resync-period 10m, its default; such guests turn themselves off, and cost a boot",
		}
	}
	return finding{Verdict: good, Found: found}
}
