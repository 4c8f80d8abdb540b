package qemu

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/reportlog"
)

// Create makes the microVM and returns once its qemu runs. See firerunner.Driver.
//
// It holds the ID's lock. What a crash leaves at each point: a record; a folder with a uid; a cgroup; a shim that
// ends by itself as its pipe closes; a shim with a microVM that is found again. List shows all of these. The next
// Create returns the microVM if qemu may have run, and else removes what is there and starts anew.
func (d *Driver) Create(ctx context.Context, spec firerunner.MicroVMSpec) (firerunner.MicroVM, error) {
	if err := checkSpec(spec, d.cfg.Now()); err != nil {
		return firerunner.MicroVM{}, err
	}
	if err := d.vms.checkSocket(spec.ID); err != nil {
		return firerunner.MicroVM{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.CreateTimeout,
		fmt.Errorf("creating a microVM took longer than %s", d.cfg.CreateTimeout))
	defer cancel()
	release, err := d.vms.hold(ctx, spec.ID)
	if err != nil {
		return firerunner.MicroVM{}, err
	}
	defer release()
	d.step("create: locked")
	if ctx.Err() != nil {
		return firerunner.MicroVM{}, firerunner.Errorf(firerunner.Unavailable, "qemu: creating microVM %s: %w", spec.ID, context.Cause(ctx))
	}

	if vm, ok := d.adopt(ctx, spec.ID); ok {
		return vm, nil
	}
	if err := d.erase(ctx, spec.ID); err != nil {
		return firerunner.MicroVM{}, err
	}
	d.step("create: clean")
	if err := d.room(d.cfg.MinFreeMiB); err != nil {
		return firerunner.MicroVM{}, firerunner.Errorf(firerunner.Exhausted, "qemu: creating microVM %s: %w", spec.ID, err).WithHint("%s", firerunner.HintOf(err))
	}
	began := time.Now()
	rec, err := d.build(ctx, spec)
	if err != nil {
		// The caller's ctx may be what ended it; cleaning up has a time of its own.
		cleaning, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.cfg.DestroyTimeout)
		defer cancel()
		if eraseErr := d.erase(cleaning, spec.ID); eraseErr != nil {
			d.log.Error("a failed microVM could not be removed", "vm", spec.ID, "error", eraseErr)
		}
		return firerunner.MicroVM{}, err
	}
	d.log.Info("microVM made", "vm", spec.ID, "size", spec.Size.String(), "took", time.Since(began))
	return rec.microVM(true), nil
}

// adopt returns the microVM of an ID that has one already: it runs, or it ran once. An ID is never used for a
// second one. The lock is held, so nobody else is making it.
func (d *Driver) adopt(ctx context.Context, id string) (firerunner.MicroVM, bool) {
	rec, ok := d.vms.readRecord(id)
	if !ok || rec.Phase == phaseDestroying {
		return firerunner.MicroVM{}, false
	}
	if rec.Phase != phaseMade {
		if !d.vms.started(id) {
			return firerunner.MicroVM{}, false
		}
		rec.Phase = phaseMade
		if err := d.vms.writeRecord(rec); err != nil {
			d.log.Warn("a microVM's record could not be written", "vm", id, "error", err)
		}
	}
	return rec.microVM(d.alive(ctx, rec)), true
}

// build makes a microVM where nothing is.
func (d *Driver) build(ctx context.Context, spec firerunner.MicroVMSpec) (rec record, err error) {
	toShim, err := d.shimSpec(ctx, spec)
	if err != nil {
		return rec, err
	}
	failed := func(err error) (record, error) {
		var known *firerunner.Error
		if errors.As(err, &known) {
			return rec, err
		}
		return rec, firerunner.Errorf(firerunner.Unavailable, "qemu: creating microVM %s: %w", spec.ID, err)
	}
	rec = record{ID: spec.ID, Host: spec.Host, Phase: phaseMaking, CreatedAt: d.cfg.Now(), Deadline: spec.Deadline}
	if rec.Host == "" {
		rec.Host = d.cfg.Host
	}
	// The record is first, so that whatever exists is explained.
	if err := d.vms.writeRecord(rec); err != nil {
		return failed(err)
	}
	d.step("create: recorded")
	if rec.UID, err = d.vms.make(spec.ID, d.root, d.cfg.UIDBase+1, d.cfg.UIDCount-1); err != nil {
		return failed(err)
	}
	d.step("create: folder")
	if err := d.cgroups.make(spec.ID, limits{MemoryMiB: toShim.MemoryMiB, CPUs: d.cfg.CPUQuota * float64(spec.Size.VCPUs), Pids: d.cfg.PidsMax}); err != nil {
		return failed(fmt.Errorf("making the cgroup: %w", err))
	}
	d.step("create: cgroup")

	shim, err := d.startShim(spec.ID, rec.UID, toShim.Accel)
	if err != nil {
		return failed(fmt.Errorf("starting the shim: %w", err))
	}
	defer shim.close()
	d.step("create: shim started")
	// It waits for its spec, so it has done nothing yet that the group could miss.
	if err := d.cgroups.enter(spec.ID, shim.process.pid); err != nil {
		return failed(fmt.Errorf("putting the shim into its cgroup: %w", err))
	}
	stat, err := readStat(shim.process.pid)
	if err != nil {
		return failed(fmt.Errorf("the shim ended at once: %s", d.shimLog(spec.ID)))
	}
	rec.PID, rec.PIDStart = shim.process.pid, stat.start
	if err := d.vms.writeRecord(rec); err != nil {
		return failed(err)
	}
	d.step("create: shim recorded")
	if err := shim.tell(ctx, toShim); err != nil {
		if ctx.Err() != nil {
			return failed(context.Cause(ctx))
		}
		return failed(fmt.Errorf("the shim did not take its spec: %w: %s", err, d.shimLog(spec.ID)))
	}
	d.step("create: spec told")
	a, err := shim.answer(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return failed(context.Cause(ctx))
		}
		return failed(fmt.Errorf("the shim ended without an answer: %s", d.shimLog(spec.ID)))
	}
	if err := a.err(); err != nil {
		return failed(fmt.Errorf("qemu: creating microVM %s: %w", spec.ID, err))
	}
	d.step("create: started")
	rec.Phase = phaseMade
	if err := d.vms.writeRecord(rec); err != nil {
		return failed(err)
	}
	d.step("create: made")
	return rec, nil
}

func (d *Driver) shimLog(id string) string {
	return reportlog.Clean(strings.TrimSpace(d.vms.tail(id, shimLogFile, 1000)), 1000)
}

// shimSpec is the spec as the shim needs it.
func (d *Driver) shimSpec(ctx context.Context, spec firerunner.MicroVMSpec) (shimSpec, error) {
	qemu, err := findProgram(d.cfg.QEMU)
	if err != nil {
		return shimSpec{}, err
	}
	img, err := findProgram(d.cfg.QEMUImg)
	if err != nil {
		return shimSpec{}, err
	}
	accel, _, err := d.accelerator(ctx, &spec.Image)
	if err != nil {
		return shimSpec{}, err
	}
	var kHz uint64
	if accel == AccelTCG {
		if kHz, err = d.tsc.rate(); err != nil {
			return shimSpec{}, err
		}
	}
	return shimSpec{
		ID: spec.ID, Dir: d.vms.dir(spec.ID), QEMU: qemu, QEMUImg: img, Accel: accel, TSCKHz: kHz,
		Size: spec.Size, Image: spec.Image, Network: spec.Network, Start: spec.Start,
		Token: spec.Start.Token.Reveal(), Deadline: spec.Deadline,
		ConsoleBytes: d.cfg.ConsoleBytes, ReportBytes: d.cfg.ReportBytes, ReportCount: d.cfg.ReportCount,
		StopGrace: d.cfg.StopGrace, Linger: d.cfg.Linger,
		Host: or(spec.Host, d.cfg.Host), Provision: spec.Provision, SSH: spec.SSH,
		OOMFile: d.cgroups.oomFile(spec.ID), MemoryMiB: spec.Size.MemoryMiB + d.cfg.MemoryOverheadMiB,
	}, nil
}
