package e2e

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/internal/image"
	"github.com/firerunner/firerunner/internal/network"
)

// guestEndpoint is where the hosts' guests find the daemon: nobody's address, which their network leads to it.
const guestEndpoint = "192.0.2.20:8443"

// fleet is hosts whose flintlockd is fake and whose microVMs are real.
type fleet struct {
	t      *testing.T
	hosts  []*flintlocktest.Server
	guests int // port of the daemon's guest endpoint
	config string
	gitlab string // where the route of the name gitlab.firerunner.internal leads
}

// newFleet starts n hosts, which pull the image under test from a registry of the test's own. They end with the test,
// after its site.
func newFleet(t *testing.T, n int) *fleet {
	t.Helper()
	f := &fleet{t: t, guests: freePort(t)}
	dir := t.TempDir()
	web := httptest.NewServer(registry.New(registry.WithBlobHandler(registry.NewDiskBlobHandler(t.TempDir())), registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(web.Close)
	// The program as released packs the image, because the race detector makes that ten times as slow.
	push := exec.Command(under.released, "image", "push", "default", "--json", "--to", strings.TrimPrefix(web.URL, "http://")+"/firerunner/default:test")
	push.Env, push.Stderr = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "FIRERUNNER_IMAGE_DIR=" + under.imageDir}, os.Stderr
	out, err := push.Output()
	require.NoError(t, err)
	var pushed image.Pushed
	require.NoError(t, json.Unmarshal(out, &pushed))

	public, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	require.NoError(t, err)
	ca := filepath.Join(dir, "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	token := filepath.Join(dir, "token")
	require.NoError(t, os.WriteFile(token, []byte("hosts-token\n"), 0o600))

	var hosts strings.Builder
	for i := range n {
		home := filepath.Join(dir, fmt.Sprint("h", i+1))
		require.NoError(t, os.Mkdir(home, 0o700))
		srv, err := flintlocktest.Start(flintlocktest.Config{
			Dir: home, Token: "hosts-token",
			TLS:    &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13},
			VMM:    &flintlocktest.QEMU{Accel: under.accel, Network: f.network},
			Images: &flintlocktest.Registry{CacheDir: filepath.Join(dir, "pulled")},
		})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, srv.Close()) })
		f.hosts = append(f.hosts, srv)
		fmt.Fprintf(&hosts, "  - {name: h%d, endpoint: %q, vcpu: 2, overcommit_cpu: 1, memory_mb: 3072, slots: 2, addresses: {first: 10.42.0.100, last: 10.42.0.109, prefix: 24, gateway: 10.42.0.1, dns: 10.42.0.1}}\n", i+1, srv.Addr())
	}
	f.config = fmt.Sprintf(`
driver: flintlock
guest: {host: 127.0.0.1, port: %d, public_address: %q}
flintlock:
  token_file: %s
  tls: {ca_file: %s, server_name: localhost}
  kernel_image: %s
  kernel_file: %s
  initrd_image: %s
  initrd_file: %s
  rootfs_image: %s
  probe_interval: 1s
  probe_timeout: 5s
  lost_after: 10s
hosts:
%s`, f.guests, guestEndpoint, token, ca, pushed.Kernel, pushed.KernelFile, pushed.Kernel, pushed.InitrdFile, pushed.RootFS, &hosts)
	return f
}

// network is a guest's own: GitLab by its name, the guest endpoint, and nothing else.
func (f *fleet) network(_ flintlocktest.Machine, i flintlocktest.Interface) (flintlocktest.Link, error) {
	address, err := netip.ParsePrefix(i.Address)
	if err != nil {
		return flintlocktest.Link{}, err
	}
	mac, err := net.ParseMAC(i.GuestMAC)
	if err != nil {
		return flintlocktest.Link{}, err
	}
	name, err := url.Parse(guestGitLab)
	if err != nil {
		return flintlocktest.Link{}, err
	}
	endpoint := netip.MustParseAddrPort(guestEndpoint)
	n, err := network.New(network.Config{Guest: address.Addr(), GuestMAC: mac, MTU: 1500, Policy: firerunner.NetworkPolicy{Routes: []firerunner.NetworkRoute{
		{Name: name.Hostname(), Port: 80, Dial: f.gitlab},
		{Name: endpoint.Addr().String(), Port: int(endpoint.Port()), Dial: net.JoinHostPort("127.0.0.1", strconv.Itoa(f.guests))},
	}}})
	if err != nil {
		return flintlocktest.Link{}, err
	}
	return flintlocktest.Link{MAC: i.GuestMAC, Serve: n.Serve, Close: n.Close}, nil
}

// cli runs a command beside the daemon, as an operator does, and returns what it wrote.
func (s *site) cli(args ...string) string {
	s.t.Helper()
	command := exec.Command(under.released, append(args, "--config", s.configFile())...)
	command.Dir, command.Env = s.dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir}
	out, err := command.CombinedOutput()
	require.NoError(s.t, err, "%v: %s", args, out)
	return string(out)
}
