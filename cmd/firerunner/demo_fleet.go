package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/internal/image"
	"github.com/firerunner/firerunner/internal/network"
)

// guestEndpoint is where guests of the demo's hosts find the guest endpoint: an address that is nobody's (RFC 5737), which
// their network leads to this machine's loopback.
const guestEndpoint = "192.0.2.20:8443"

// demoFleet is hosts on this machine for the demo: each a fake flintlockd whose microVMs are real, and a registry that
// they pull from.
type demoFleet struct {
	dir      string
	hosts    []*flintlocktest.Server
	registry *http.Server
	address  string // of the registry
	demo     *demo
	log      *slog.Logger
}

// startFleet starts n hosts, puts the image where they pull it from, and points the configuration at them.
func (d *demo) startFleet(ctx context.Context, cfg *config.Config, n int, logger *slog.Logger) (err error) {
	f := &demoFleet{dir: filepath.Join(d.dir, "fleet"), demo: d, log: logger.With("part", "fleet")}
	d.fleet = f
	if err := f.startRegistry(); err != nil {
		return err
	}
	images := &image.Store{Dir: cfg.Image.Dir}
	d.say("pushing the image to the hosts' registry ...\n")
	pushed, err := image.Registry{}.Push(ctx, images, cfg.VM.Image, f.address+"/firerunner/default:demo", nil)
	if err != nil {
		return err
	}
	ca, certificate, err := demoCertificate(f.dir)
	if err != nil {
		return err
	}
	var secret [32]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return err
	}
	token := firerunner.Secret(hex.EncodeToString(secret[:]))
	cfg.Driver, cfg.Hosts = config.DriverFlintlock, nil
	cfg.Guest = config.Guest{Host: "127.0.0.1", Port: 0, PublicAddress: guestEndpoint}
	cfg.Flintlock.KernelImage, cfg.Flintlock.KernelFile = pushed.Kernel, pushed.KernelFile
	cfg.Flintlock.InitrdImage, cfg.Flintlock.InitrdFile = pushed.Kernel, pushed.InitrdFile
	cfg.Flintlock.RootFSImage = pushed.RootFS
	cfg.VM.MinMemoryMiB = 1024
	for i := range n {
		name := fmt.Sprintf("host-%d", i+1)
		dir := filepath.Join(f.dir, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		srv, err := flintlocktest.Start(flintlocktest.Config{
			Dir: dir, Token: token, TLS: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13},
			VMM:    &flintlocktest.QEMU{Binary: cfg.VM.QEMU, Network: f.network, Logger: f.log.With("host", name)},
			Images: &flintlocktest.Registry{CacheDir: filepath.Join(f.dir, "pulled")},
			Logger: f.log.With("host", name),
		})
		if err != nil {
			return err
		}
		f.hosts = append(f.hosts, srv)
		cfg.Hosts = append(cfg.Hosts, config.Host{
			Name: name, Endpoint: srv.Addr(), Token: token, TLS: config.TLS{CAFile: ca, ServerName: "localhost"},
			VCPU: 2, MemoryMiB: 2048, OvercommitCPU: 1, Slots: 2,
			Addresses: config.Addresses{First: "10.42.0.100", Last: "10.42.0.199", Prefix: 24, Gateway: "10.42.0.1", DNS: "10.42.0.1"},
		})
	}
	return nil
}

// startRegistry serves container images from the demo's folder.
func (f *demoFleet) startRegistry() error {
	blobs := filepath.Join(f.dir, "registry")
	if err := os.MkdirAll(blobs, 0o700); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "making the registry's folder: %w", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "listening for the hosts' registry: %w", err)
	}
	f.address = listener.Addr().String()
	f.registry = &http.Server{
		Handler: registry.New(registry.WithBlobHandler(registry.NewDiskBlobHandler(blobs)),
			registry.Logger(slog.NewLogLogger(f.log.Handler(), slog.LevelDebug))),
		ReadHeaderTimeout: 10 * time.Second,
	}
	go func() { _ = f.registry.Serve(listener) }() // ends with Close
	return nil
}

// network is the guest's own interface: the same user-mode network that the qemu driver gives, with GitLab and the guest
// endpoint in it and nothing else.
func (f *demoFleet) network(_ flintlocktest.Machine, i flintlocktest.Interface) (flintlocktest.Link, error) {
	address, err := netip.ParsePrefix(i.Address)
	if err != nil {
		return flintlocktest.Link{}, firerunner.Errorf(firerunner.Invalid, "the guest's address: %w", err)
	}
	mac, err := net.ParseMAC(i.GuestMAC)
	if err != nil {
		return flintlocktest.Link{}, firerunner.Errorf(firerunner.Invalid, "the guest's hardware address: %w", err)
	}
	daemon := f.demo.daemon
	_, routes, err := guestRoutes(daemon.cfg.GitLab.URL, daemon.cfg.GitLab.GuestURL)
	if err != nil {
		return flintlocktest.Link{}, err
	}
	endpoint := netip.MustParseAddrPort(guestEndpoint)
	routes = append(routes, firerunner.NetworkRoute{
		Name: endpoint.Addr().String(), Port: int(endpoint.Port()), Dial: daemon.guestListener.Addr().String(),
	})
	n, err := network.New(network.Config{
		Policy: firerunner.NetworkPolicy{Routes: routes}, Guest: address.Addr(), GuestMAC: mac, MTU: 1500, Logger: f.log,
	})
	if err != nil {
		return flintlocktest.Link{}, err
	}
	return flintlocktest.Link{MAC: i.GuestMAC, Serve: n.Serve, Close: n.Close}, nil
}

// machines is how many microVMs the hosts have, ghosts included.
func (f *demoFleet) machines() int {
	total := 0
	if f != nil {
		for _, h := range f.hosts {
			total += len(h.VMs())
		}
	}
	return total
}

// close ends the hosts, with whatever still runs there, and the registry.
func (f *demoFleet) close() error {
	if f == nil {
		return nil
	}
	var err error
	for _, h := range f.hosts {
		err = errors.Join(err, h.Close())
	}
	if f.registry != nil {
		err = errors.Join(err, f.registry.Close())
	}
	return err
}

// demoCertificate makes a certificate for localhost that vouches for itself, and a file with it for clients.
func demoCertificate(dir string) (file string, _ tls.Certificate, err error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "FireRunner's demo"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		return "", tls.Certificate{}, err
	}
	file = filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return "", tls.Certificate{}, firerunner.Errorf(firerunner.Unavailable, "writing the demo's certificate: %w", err)
	}
	return file, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
