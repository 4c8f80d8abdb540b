package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/guest"
)

const (
	addressWait = 30 * time.Second // for DHCP
	// callFlushWait is how long the last report waits for a host that does not answer: a daemon that is being
	// replaced is back by then.
	callFlushWait = 2 * time.Minute
)

// callHost is the way to the host over the network, on a system of our own: read the metadata, set up the interface
// of the job, close the metadata service for good, and call.
func callHost(con *console) (way, error) {
	if err := loadNetModules(modulesDir(), loadPackedModule); err != nil {
		con.problem(err) // what cannot be loaded may be built in; the next step shows
	}
	service, job, err := waitLinks(linkWait)
	if err != nil {
		return way{}, err
	}
	if err := openMetadata(service); err != nil {
		return way{}, err
	}
	reading, cancel := context.WithTimeout(context.Background(), metadataWait)
	defer cancel()
	m, err := newMetadataService().read(reading)
	if err != nil {
		return way{}, err
	}
	con.phase("metadata")
	if err := closeMetadata(service); err != nil {
		return way{}, err
	}
	network, err := setUp(context.Background(), con, job, m.Network)
	if err != nil {
		return way{}, err
	}
	con.phase("network")
	if err := os.WriteFile("/etc/resolv.conf", []byte(resolvConf(network.DNS)), 0o644); err != nil {
		return way{}, err // the endpoint may have a name
	}
	return way{
		channel: guest.Call(calling(m, func(code firerunner.Code) { dismissed(con, code) })),
		link:    job.Name, kept: network, flushWait: callFlushWait, deadline: m.Deadline,
	}, nil
}

// setUp gives the job's interface its fixed address, or one by DHCP, which it keeps for as long as ctx lasts, and
// returns what it has.
func setUp(ctx context.Context, con *console, job net.Interface, fixed firerunner.GuestNetwork) (firerunner.GuestNetwork, error) {
	if fixed.Address != "" {
		return fixed, configureNetwork(job.Name, fixed)
	}
	if err := configureNetwork(job.Name, firerunner.GuestNetwork{}); err != nil {
		return firerunner.GuestNetwork{}, err
	}
	if err := bringUp(job); err != nil {
		return firerunner.GuestNetwork{}, err
	}
	asking, cancel := context.WithTimeout(ctx, addressWait)
	defer cancel()
	client := newDHCPClient(job)
	got, err := client.get(asking)
	if err != nil {
		return firerunner.GuestNetwork{}, err
	}
	network := got.network()
	if fixed.DNS != "" {
		network.DNS = fixed.DNS
	}
	if err := configureNetwork(job.Name, network); err != nil {
		return firerunner.GuestNetwork{}, err
	}
	go client.keep(ctx, got, con.problem)
	return network, nil
}

// calling is how the agent calls the endpoint that the metadata names.
func calling(m guest.Metadata, dismissed func(firerunner.Code)) guest.CallerConfig {
	return guest.CallerConfig{
		ID: m.ID, Token: m.Token, Endpoint: m.Endpoint, Fingerprint: m.Fingerprint, Others: m.Others,
		Hello: hello(), Clock: hostClock, Dismissed: dismissed, Heartbeat: m.Heartbeat,
	}
}

// dismissed ends the microVM at once: this is the second boot of a disk that had its one job, or nobody knows the
// microVM any more. There is nobody left to report to.
func dismissed(con *console, code firerunner.Code) {
	con.problem(refusedBoot(code))
	power()
}

func refusedBoot(code firerunner.Code) error {
	why := errors.New("nobody knows this microVM")
	switch code {
	case firerunner.Conflict:
		why = errors.New("it was booted before")
	case firerunner.NotFound:
		why = errors.New("its start was lost, or it is not wanted any more")
	}
	return fmt.Errorf("the host refuses this microVM (%s): %w: it turns itself off", code, why)
}
