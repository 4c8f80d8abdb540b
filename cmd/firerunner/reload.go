package main

import (
	"context"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"syscall"

	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/driver/flintlock"
)

// reloadOnHangup reads the configuration again at each SIGHUP, until ctx ends. What is wrong is logged and changes
// nothing. Hosts, and what all hosts have in common, come into force at once; everything else does at the next start,
// which is said.
func (d *daemon) reloadOnHangup(ctx context.Context, load func() (*config.Config, error)) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			if err := d.reload(ctx, load); err != nil {
				d.log.Error("the configuration was not read again; the one before stays in force", "error", err)
			}
		}
	}
}

func (d *daemon) reload(ctx context.Context, load func() (*config.Config, error)) error {
	fresh, err := load()
	if err != nil {
		return err
	}
	old := d.hosts.Load()
	if d.fleet != nil && fresh.Driver == old.Driver {
		// The driver first: a host whose row is there may be given work. One that is not configured any more drains, and
		// is spoken with until the next start: what runs there must be ended.
		hosts := fleet(fresh)
		for _, h := range fleet(old) {
			if !slices.ContainsFunc(hosts, func(other flintlock.Host) bool { return other.Name == h.Name }) {
				hosts = append(hosts, h)
			}
		}
		if err := d.fleet.SetHosts(hosts); err != nil {
			return err
		}
		for _, in := range d.standing.each() {
			if err := in.driver.SetHosts(hosts); err != nil {
				return err
			}
		}
		if err := d.control.SyncHosts(ctx, fresh.HostList()); err != nil {
			return err
		}
		d.hosts.Store(fresh)
		d.log.Info("the hosts of the configuration are in force", "hosts", len(fresh.Fleet()))
	}
	if later := laterKeys(old, fresh); len(later) > 0 {
		d.log.Warn("changed keys that come into force at the next start", "sections", later)
	}
	return nil
}

// laterKeys names the sections of the configuration that differ and are not read again.
func laterKeys(old, fresh *config.Config) []string {
	var names []string
	a, b := reflect.ValueOf(*old), reflect.ValueOf(*fresh)
	for i := range a.NumField() {
		field := a.Type().Field(i)
		key := field.Tag.Get("yaml")
		if !field.IsExported() || key == "" || key == "hosts" || key == "flintlock" {
			continue
		}
		if !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			names = append(names, key)
		}
	}
	return names
}
