package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/firerunner/firerunner"
)

// askWait is how long a shim may take to end its microVM when asked. It kills qemu at once, so this is for the load
// of the host; after it both are killed.
const askWait = 5 * time.Second

// Destroy ends the microVM and removes everything of it. See firerunner.Driver.
func (d *Driver) Destroy(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.DestroyTimeout,
		fmt.Errorf("destroying a microVM took longer than %s", d.cfg.DestroyTimeout))
	defer cancel()
	release, err := d.vms.hold(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	d.step("destroy: locked")
	if !d.vms.exists(id) && !d.cgroups.exists(id) {
		return d.endStrays(ctx, id)
	}
	if err := d.erase(ctx, id); err != nil {
		return err
	}
	d.log.Info("microVM destroyed", "vm", id)
	return nil
}

// erase ends and removes whatever there is of an ID: processes, cgroup, folder, record, in this order, so that a
// crash at any point leaves what List shows and what a second call finishes. The lock is held.
func (d *Driver) erase(ctx context.Context, id string) error {
	if !d.vms.exists(id) && !d.cgroups.exists(id) {
		return nil
	}
	rec, ok := d.vms.readRecord(id)
	if rec.UID == 0 {
		rec.UID = d.ownerOf(id) // a crash before the folder's uid was recorded
	}
	if rec.Phase != phaseDestroying && ok {
		rec.Phase = phaseDestroying
		if err := d.vms.writeRecord(rec); err != nil {
			return d.cannot(id, err)
		}
	}
	d.step("destroy: marked")
	if err := d.endShim(ctx, rec); err != nil {
		return d.cannot(id, err)
	}
	d.step("destroy: shim ended")
	if err := d.endRest(ctx, rec); err != nil {
		return d.cannot(id, err)
	}
	d.step("destroy: processes ended")
	if err := d.cgroups.remove(ctx, id); err != nil {
		return d.cannot(id, err)
	}
	d.step("destroy: cgroup removed")
	if err := d.vms.remove(id); err != nil {
		return d.cannot(id, err)
	}
	d.step("destroy: folder removed")
	return nil
}

func (d *Driver) cannot(id string, err error) error {
	return firerunner.Errorf(firerunner.Unavailable, "qemu: destroying microVM %s: %w", id, err)
}

// endShim asks the shim to end its microVM and itself, and kills it if it does not. qemu dies with it.
func (d *Driver) endShim(ctx context.Context, rec record) error {
	p, err := openProcess(rec.PID, rec.PIDStart)
	if err != nil || p == nil {
		return err
	}
	defer p.close()
	// It may be a child of ours that an earlier driver in this process started.
	defer p.reap()
	if p.ended() {
		return nil
	}
	asking, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	err = newShimClient(d.vms.socket(rec.ID), rec.UID).post(asking, "destroy")
	d.step("destroy: asked")
	if err == nil {
		err = p.wait(asking)
	}
	if err == nil {
		return nil
	}
	if !errors.Is(err, syscall.ENOENT) { // without a socket it has not begun yet, or is about to end
		d.log.Warn("a shim did not end when asked and is killed", "vm", rec.ID, "error", err)
	}
	p.kill()
	return p.wait(ctx)
}

// endRest ends every process that may be left: qemu, for the moment between its shim's death and its own, and
// whatever a hostile guest has started outside. The cgroup holds those for certain; where there is none, the uid
// must do.
func (d *Driver) endRest(ctx context.Context, rec record) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		left, err := endRemnants(rec, d.vms.dir(rec.ID), d.root && len(d.cgroups.trees) == 0)
		if err != nil || left == 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%d processes do not end", left), context.Cause(ctx))
		}
	}
}

// ownerOf returns the uid that a folder was given, if it is one of those for microVMs.
func (d *Driver) ownerOf(id string) int {
	info, err := os.Lstat(d.vms.dir(id))
	if err != nil {
		return 0
	}
	uid := int(info.Sys().(*syscall.Stat_t).Uid)
	if d.root && (uid < d.cfg.UIDBase || uid >= d.cfg.UIDBase+d.cfg.UIDCount) {
		return 0
	}
	return uid
}
