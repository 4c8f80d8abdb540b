package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/driver/fake"
	"github.com/firerunner/firerunner/internal/driver/qemu"
	"github.com/firerunner/firerunner/internal/image"
)

// openDriver makes the driver that the configuration names, and the store of images that it boots.
func (d *daemon) openDriver(ctx context.Context) error {
	d.images = &image.Store{Dir: d.cfg.Image.Dir}
	if d.cfg.Driver == "fake" {
		client, err := d.guestHTTP()
		if err != nil {
			return err
		}
		guests := d.cfg.Fake
		guests.HTTP = client
		f := fake.New(guests)
		d.driver = f
		d.onClose(func() { d.logError("ending fake microVMs", f.Close()) })
		return nil
	}
	if d.cfg.Driver == config.DriverFlintlock {
		return d.openFleet(ctx)
	}
	q, err := qemu.New(qemu.Config{
		StateDir: d.cfg.StateDir, Shim: d.shim(), QEMU: d.cfg.VM.QEMU, Accel: d.cfg.VM.Accel,
		Host: d.cfg.Scheduler.HostName, Installation: d.installation, UIDBase: d.cfg.VM.UIDBase, MinFreeMiB: d.cfg.Scheduler.MinFreeDiskMiB,
		ConsoleBytes: int64(d.cfg.VM.ConsoleKiB) << 10, Logger: d.log,
	})
	if err != nil {
		return err
	}
	d.driver = q
	d.onClose(func() { d.logError("closing the driver", q.Close()) })
	return nil
}

// guestHTTP reaches GitLab by the name that guests use, as a guest's own network would.
func (d *daemon) guestHTTP() (*http.Client, error) {
	_, routes, err := guestRoutes(d.cfg.GitLab.URL, d.cfg.GitLab.GuestURL)
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Unavailable, "reading the system's certificates: %w", err)
	}
	ca, err := readCA(d.cfg.GitLab.CAFile)
	if err != nil {
		return nil, err
	}
	roots.AppendCertsFromPEM([]byte(ca))
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		MaxIdleConnsPerHost: 32,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			for _, r := range routes {
				if address == net.JoinHostPort(r.Name, strconv.Itoa(r.Port)) {
					address = r.Dial
				}
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}, nil
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
	vm := d.inForce.Load().VM
	switch {
	case d.cfg.Driver == "fake":
		return firerunner.Image{Name: name}, nil
	case d.cfg.Driver == config.DriverFlintlock:
		return d.fleetImage(ctx, name)
	case vm.KernelImage != "" && vm.RootFSImage != "":
		return firerunner.Image{Name: "files", Kernel: vm.KernelImage, Initrd: vm.InitrdImage, RootFS: vm.RootFSImage}, nil
	}
	return d.images.Resolve(ctx, name)
}

// missingImages says for each profile's image why it cannot be booted; nothing if all can.
func (d *daemon) missingImages(ctx context.Context) error {
	var missing []error
	seen := map[string]bool{}
	for _, p := range d.inForce.Load().ProfileList() {
		if seen[p.Image] {
			continue
		}
		seen[p.Image] = true
		if _, err := d.image(ctx, p.Image); err != nil {
			missing = append(missing, err)
		}
	}
	return errors.Join(missing...)
}
