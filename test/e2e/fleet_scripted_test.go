package e2e

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/fake"
	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/test/scripted"
)

// cast is a fleet whose guests are played by a function: all of FireRunner is real, and no machine boots. A guest calls
// the daemon's guest endpoint as the agent does, and GitLab as gitlab-runner does.
type cast struct {
	*fleet
	dir     string
	ca      *x509.Certificate
	key     ed25519.PrivateKey                // the authority's
	certs   []atomic.Pointer[tls.Certificate] // of each host; may be renewed
	jobTime atomic.Int64                      // how long the job of a guest takes that boots now
	refused atomic.Int64                      // guests that were turned away for good
	second  int                               // port of a second daemon's guest endpoint; 0: there is none
	gates   sync.Map                          // by job: a channel, for which the job waits whose script is "wait"
}

// hostNoise is how one host differs: its flintlockd, and what its certificate says of its end.
type hostNoise struct {
	token   string        // flintlockd's; empty: the one that FireRunner has
	expired bool          // its certificate was good until an hour ago
	retry   time.Duration // flintlockd's pause after a failure; 0 = 200 ms
}

// newCast starts hosts h1, h2, ... They end with the test, after its site.
func newCast(t *testing.T, hosts ...hostNoise) *cast {
	t.Helper()
	c := &cast{fleet: &fleet{t: t}, dir: t.TempDir(), certs: make([]atomic.Pointer[tls.Certificate], len(hosts))}
	ca := filepath.Join(c.dir, "ca.pem")
	require.NoError(t, os.WriteFile(ca, c.authority(), 0o600))
	var list strings.Builder
	for i, h := range hosts {
		name := fmt.Sprint("h", i+1)
		end := time.Now().Add(time.Hour)
		if h.expired {
			end = time.Now().Add(-time.Hour)
		}
		c.certify(i, end)
		server := flintlocktest.Config{
			Dir: filepath.Join(c.dir, name), Token: "hosts-token", RetryDelay: 200 * time.Millisecond,
			VMM: flintlocktest.Scripted{Guest: c.play},
			TLS: &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.certs[i].Load(), nil }},
		}
		if h.token != "" {
			server.Token = firerunner.Secret(h.token)
		}
		if h.retry != 0 {
			server.RetryDelay = h.retry
		}
		require.NoError(t, os.Mkdir(server.Dir, 0o700))
		srv, err := flintlocktest.Start(server)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, srv.Close()) })
		c.hosts = append(c.hosts, srv)
		c.setToken(name, "hosts-token")
		fmt.Fprintf(&list, "  - {name: %[1]s, endpoint: %[2]q, token_file: %[3]s, vcpu: 4, memory_mb: 8192, slots: 4, addresses: {range: 10.4%[4]d.0.0/24, gateway: 10.4%[4]d.0.1}}\n",
			name, srv.Addr(), c.tokenFile(name), i)
	}
	c.guests = freePort(t) // after the hosts have theirs
	digest := "@sha256:" + strings.Repeat("0123456789abcdef", 4)
	c.config = fmt.Sprintf(`
driver: flintlock
guest: {host: 127.0.0.1, port: %d, public_address: %q}
flintlock:
  tls: {ca_file: %s, server_name: localhost}
  kernel_image: registry.example.com/kernel%[4]s
  kernel_file: boot/vmlinux
  rootfs_image: registry.example.com/root%[4]s
  probe_interval: 200ms
  probe_timeout: 5s
  lost_after: 1s
hosts:
%[5]s`, c.guests, guestEndpoint, ca, digest, &list)
	return c
}

// authority makes what the hosts' certificates are signed with, and returns its own as PEM.
func (c *cast) authority() []byte {
	c.t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(c.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the hosts' authority"}, NotBefore: time.Now().Add(-48 * time.Hour),
		NotAfter: time.Now().Add(48 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	require.NoError(c.t, err)
	c.ca, err = x509.ParseCertificate(der)
	require.NoError(c.t, err)
	c.key = key
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// certify gives a host a certificate that is good until end, from the next connection on.
func (c *cast) certify(host int, end time.Time) {
	c.t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(c.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{"localhost"}, NotBefore: end.Add(-24 * time.Hour), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.ca, public, c.key)
	require.NoError(c.t, err)
	c.certs[host].Store(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
}

func (c *cast) tokenFile(host string) string { return filepath.Join(c.dir, host+".token") }

// setToken is the token that FireRunner has for a host.
func (c *cast) setToken(host, token string) {
	c.t.Helper()
	require.NoError(c.t, os.WriteFile(c.tokenFile(host), []byte(token+"\n"), 0o600))
}

// play is the life of one guest. It finds GitLab by the name that guests know.
func (c *cast) play(ctx context.Context, g *flintlocktest.Guest) {
	routes := c.doors()
	routes[strings.TrimPrefix(guestGitLab, "http://")+":80"] = c.gitlab
	guests := scripted.Guests{
		Heartbeat: 200 * time.Millisecond,
		Dial:      c.dial(routes), Refused: func(string) { c.refused.Add(1) },
		Runner: func() fake.Runner {
			takes := time.Duration(c.jobTime.Load())
			return fake.Runner{Poll: 50 * time.Millisecond, Work: func(task fake.Task) fake.Work {
				if slices.Equal(task.Script, []string{"wait"}) {
					return fake.Work{Time: patience, Until: c.gate(task.Job)}
				}
				return fake.Work{Time: takes}
			}}
		},
	}
	guests.Play(ctx, g)
}

// letGo ends a job that waits, once.
func (c *cast) letGo(job int64) { close(c.gate(job)) }

func (c *cast) gate(job int64) chan struct{} {
	gate, _ := c.gates.LoadOrStore(job, make(chan struct{}))
	return gate.(chan struct{})
}

// doors are the guest endpoints of the daemons, as guests call them.
func (c *cast) doors() map[string]string {
	doors := map[string]string{guestEndpoint: net.JoinHostPort("127.0.0.1", strconv.Itoa(c.guests))}
	if c.second != 0 {
		doors[secondEndpoint] = net.JoinHostPort("127.0.0.1", strconv.Itoa(c.second))
	}
	return doors
}

// dial leads to where a guest's network would.
func (c *cast) dial(routes map[string]string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		to, ok := routes[address]
		if !ok {
			return nil, fmt.Errorf("there is no way to %s", address)
		}
		return new(net.Dialer).DialContext(ctx, network, to)
	}
}

// newPlay starts a site on such a fleet. Whatever happens in its test, nothing may be left: not on a host, in the
// ledger or in GitLab, and no runner that is not gone. quiet sees to the last two.
func newPlay(t *testing.T, c *cast, settings ...string) *site {
	t.Helper()
	if under.skip != "" {
		t.Skip(under.skip)
	}
	s := newSite(t, options{fleet: c.fleet, settings: settings})
	t.Cleanup(func() { // before the site's own
		if !t.Failed() {
			s.empty(c)
		}
	})
	return s
}

// empty waits until nothing of any microVM is left.
func (s *site) empty(c *cast) {
	s.t.Helper()
	s.quiet()
	ctx, cancel := context.WithTimeout(context.Background(), settled)
	defer cancel()
	for i, h := range c.hosts {
		require.NoError(s.t, h.Wait(ctx, func(vms []flintlocktest.VM) bool { return len(vms) == 0 }), "microVMs on h%d", i+1)
		require.Zero(s.t, h.Running(), "machines on h%d", i+1)
	}
	ledger, err := s.store.VMs(ctx, "flintlock")
	require.NoError(s.t, err)
	require.Empty(s.t, ledger, "rows of the ledger")
	for _, r := range s.rows(firerunner.RunnerQuery{}) {
		require.False(s.t, r.Reserves(), "%s still holds capacity, and address %s", r.ID, r.Address)
	}
}
