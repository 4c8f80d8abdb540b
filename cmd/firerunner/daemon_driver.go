package main

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/fake"
	"github.com/firerunner/firerunner/internal/driver/qemu"
	"github.com/firerunner/firerunner/internal/image"
)

// openDriver makes the driver that the configuration names, and the store of images that it boots.
func (d *daemon) openDriver(installation string) error {
	d.images = &image.Store{Dir: d.cfg.Image.Dir}
	if d.cfg.Driver == "fake" {
		f := fake.New(fake.Config{Dial: d.dialGitLab, Logger: d.log})
		d.driver = f
		d.onClose(func() { d.logError("ending fake microVMs", f.Close()) })
		return nil
	}
	q, err := qemu.New(qemu.Config{
		StateDir: d.cfg.StateDir, Shim: d.shim(), QEMU: d.cfg.VM.QEMU, Accel: d.cfg.VM.Accel,
		Host: d.cfg.Scheduler.HostName, Installation: installation, UIDBase: d.cfg.VM.UIDBase,
		ConsoleBytes: int64(d.cfg.VM.ConsoleKiB) << 10, Logger: d.log,
	})
	if err != nil {
		return err
	}
	d.driver = q
	d.onClose(func() { d.logError("closing the driver", q.Close()) })
	return nil
}

// shim is the command that holds one microVM: this program, unless FIRERUNNER_SHIM names another build of it.
func (d *daemon) shim() []string {
	for _, v := range d.cfg.Environ {
		if path, ok := strings.CutPrefix(v, "FIRERUNNER_SHIM="); ok && filepath.IsAbs(path) {
			return []string{path, "shim"}
		}
	}
	return nil
}

// image returns the image of that name, or the files that the configuration names instead.
func (d *daemon) image(ctx context.Context, name string) (firerunner.Image, error) {
	vm := d.cfg.VM
	switch {
	case d.cfg.Driver == "fake":
		return firerunner.Image{Name: name}, nil
	case vm.KernelImage != "" && vm.RootFSImage != "":
		return firerunner.Image{Name: "files", Kernel: vm.KernelImage, Initrd: vm.InitrdImage, RootFS: vm.RootFSImage}, nil
	}
	return d.images.Resolve(ctx, name)
}
