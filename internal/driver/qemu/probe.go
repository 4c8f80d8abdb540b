package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firerunner/firerunner"
)

// probeID is the ID of the microVM that a probe boots.
const probeID = "probe"

// tcgProbe is how long a kernel may take to say something under emulation: under a second by itself.
const tcgProbe = 30 * time.Second

// Probe checks, by doing it, that a microVM can be made here now. See firerunner.Driver. With Config.ProbeImage
// it boots that, in all that a job's microVM has; without, it checks programs and accelerator only.
func (d *Driver) Probe(ctx context.Context) error {
	for _, program := range []string{d.cfg.QEMU, d.cfg.QEMUImg} {
		if _, err := findProgram(program); err != nil {
			return err
		}
	}
	if _, err := d.version(ctx); err != nil {
		return err
	}
	if d.cfg.ProbeImage == nil {
		if d.cfg.Accel == AccelKVM {
			return nil // nothing to try it with
		}
		_, err := d.tsc.rate()
		return err
	}
	accel, reason, err := d.Accelerator(ctx)
	if err != nil {
		return err
	}
	if accel == AccelKVM && d.cfg.Accel == AccelAuto {
		return nil // it was just seen to boot, or since this host was started
	}
	wait := tcgProbe
	if accel == AccelKVM {
		wait = d.cfg.KVMProbe
	}
	if err := d.boot(ctx, accel, *d.cfg.ProbeImage, wait); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "qemu: no microVM boots here (accelerator %s: %s): %w", accel, reason, err).
			WithHint("%s", hintOr(err, "see the message; `firerunner doctor` checks each prerequisite"))
	}
	return nil
}

func hintOr(err error, or string) string {
	if hint := firerunner.HintOf(err); hint != "" {
		return hint
	}
	return or
}

// Accelerator returns the accelerator that microVMs get here, and why. Automatic: KVM if a kernel says something
// under it; that /dev/kvm can be opened proves nothing. The answer is kept until the host is started again or
// QEMU changes.
func (d *Driver) Accelerator(ctx context.Context) (accel, reason string, err error) {
	return d.accelerator(ctx, d.cfg.ProbeImage)
}

func (d *Driver) accelerator(ctx context.Context, image *firerunner.Image) (accel, reason string, err error) {
	if d.cfg.Accel != AccelAuto {
		return d.cfg.Accel, "configured", nil
	}
	select {
	case d.deciding <- struct{}{}:
	case <-ctx.Done():
		return "", "", context.Cause(ctx)
	}
	defer func() { <-d.deciding }()
	key, err := d.hostKey(ctx)
	if err != nil {
		return "", "", err
	}
	if d.decided.Key == key {
		return d.decided.Accel, d.decided.Reason, nil
	}
	path := filepath.Join(d.cfg.StateDir, "accelerator.json")
	if b, err := os.ReadFile(path); err == nil {
		var kept decision
		if json.Unmarshal(b, &kept) == nil && kept.Key == key && (kept.Accel == AccelKVM || kept.Accel == AccelTCG) {
			d.decided = kept
			return kept.Accel, kept.Reason, nil
		}
	}
	if image == nil {
		return "", "", firerunner.Errorf(firerunner.Unavailable, "qemu: whether KVM works here is not known, and there is no image to try it with").
			WithHint("build an image, or configure the accelerator")
	}
	found := decision{Key: key, Accel: AccelKVM, Reason: "a kernel boots with it"}
	if err := d.tryKVM(ctx, *image); err != nil {
		if ctx.Err() != nil {
			return "", "", context.Cause(ctx)
		}
		found.Accel, found.Reason = AccelTCG, "KVM does not work here: "+err.Error()
	}
	d.decided = found
	d.log.Info("accelerator decided", "accel", found.Accel, "reason", found.Reason)
	b, err := json.Marshal(found)
	if err != nil {
		return "", "", err
	}
	part := path + ".part"
	if err := errors.Join(os.WriteFile(part, b, 0o600), os.Rename(part, path)); err != nil {
		d.log.Warn("the accelerator could not be remembered", "error", err)
	}
	return found.Accel, found.Reason, nil
}

// decision is what is remembered of a probe.
type decision struct {
	Key    string // boot id and QEMU version
	Accel  string
	Reason string
}

// hostKey changes whenever the answer may.
func (d *Driver) hostKey(ctx context.Context) (string, error) {
	version, err := d.version(ctx)
	if err != nil {
		return "", err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", firerunner.Errorf(firerunner.Unavailable, "qemu: %w", err)
	}
	return strings.TrimSpace(string(boot)) + " " + version, nil
}

// version is QEMU's own word.
func (d *Driver) version(ctx context.Context) (string, error) {
	path, err := findProgram(d.cfg.QEMU)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, tcgProbe)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", firerunner.Errorf(firerunner.Unavailable, "qemu: asking %s for its version: %w", path, err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return first, nil
}

// tryKVM boots a kernel with KVM. That the device is missing or closed needs no boot.
func (d *Driver) tryKVM(ctx context.Context, image firerunner.Image) error {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_ = f.Close()
	err = d.boot(ctx, AccelKVM, image, d.cfg.KVMProbe)
	var device unix.Stat_t
	if err != nil && d.root && unix.Stat("/dev/kvm", &device) == nil && device.Gid == 0 && device.Mode&0o006 != 0o006 {
		err = fmt.Errorf("%w (microVMs do not run as root, and /dev/kvm is root's alone: give it to a group, with mode 0660)", err)
	}
	return err
}

// boot makes a microVM the way jobs get theirs, in a state folder and with a uid of its own, waits for the first
// words of its kernel, and destroys it.
func (d *Driver) boot(ctx context.Context, accel string, image firerunner.Image, within time.Duration) (err error) {
	select {
	case d.probing <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-d.probing }()
	cfg := d.cfg
	cfg.StateDir, cfg.Installation = filepath.Join(d.cfg.StateDir, "probe"), d.cfg.Installation+"-probe"
	cfg.Accel, cfg.ProbeImage, cfg.UIDBase, cfg.UIDCount = accel, nil, d.cfg.UIDBase-1, 2
	if err := os.MkdirAll(cfg.StateDir, 0o711); err != nil {
		return err
	}
	p, err := New(cfg)
	if err != nil {
		return err
	}
	defer p.Close()
	// An earlier probe may have been cut short.
	if err := p.Destroy(ctx, probeID); err != nil {
		return err
	}
	defer func() {
		cleaning, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.cfg.DestroyTimeout)
		defer cancel()
		err = errors.Join(err, p.Destroy(cleaning, probeID))
	}()
	image.Cmdline += " loglevel=7" // the last of such words counts; ours was quiet
	_, err = p.Create(ctx, firerunner.MicroVMSpec{
		ID: probeID, Size: firerunner.Size{VCPUs: 1, MemoryMiB: 256}, Image: image,
		Deadline: d.cfg.Now().Add(within + d.cfg.CreateTimeout),
	})
	if err != nil {
		return err
	}
	return p.speaks(ctx, within)
}

// speaks waits until the probe's guest has written something to its console.
func (d *Driver) speaks(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("the kernel said nothing within %s", within))
	defer cancel()
	rec, _ := d.vms.readRecord(probeID)
	shim := newShimClient(d.vms.socket(probeID), rec.UID)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := shim.state(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		case s.Console > 0:
			return nil
		case s.Ended:
			return d.lastWord(ctx)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// lastWord is how the probe's microVM ended.
func (d *Driver) lastWord(ctx context.Context) error {
	err := d.Follow(ctx, probeID, 0, func(r firerunner.GuestReport) error {
		if r.Kind == firerunner.ReportExited {
			return errors.New(r.Message)
		}
		return nil
	})
	if err == nil {
		err = errors.New("the microVM ended without a word")
	}
	return err
}
