package qemu

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
)

// ProbeHost says whether this machine takes work: not while there is less room for overlays than Config.MinFreeMiB. It is
// never silent. See firerunner.HostProber.
func (d *Driver) ProbeHost(context.Context, string) error {
	least := d.cfg.MinFreeMiB
	if d.short.Load() {
		least += least / 8 // so that it does not come and go with every file
	}
	err := d.room(least)
	d.short.Store(err != nil)
	return err
}

// room fails where less than so many MiB are free for overlays. It does not say how many are: the words stand in a host's row,
// and are an event whenever they change.
func (d *Driver) room(leastMiB int) error {
	if d.cfg.MinFreeMiB <= 0 {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(string(d.vms), &fs); err != nil {
		return firerunner.Errorf(firerunner.Internal, "looking for room in %s: %w", d.vms, err)
	}
	if free := fs.Bavail * uint64(fs.Bsize) >> 20; free < uint64(leastMiB) {
		d.log.Debug("too little room for microVMs", "free_mb", free, "least_mb", leastMiB, "folder", string(d.vms))
		return firerunner.Errorf(firerunner.Exhausted, "less than %d MiB free in %s", d.cfg.MinFreeMiB, d.vms).
			WithHint("make room there, or lower scheduler.min_free_disk_mb")
	}
	return nil
}

// noRoom is the end of a microVM whose overlay could not grow.
func noRoom(dir string) string {
	return fmt.Sprintf("%s: no room for what the guest wrote to its disk, in %s", causeDiskFull, dir)
}
