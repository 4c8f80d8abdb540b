package flintlock

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/flintlocktest"
)

// authority makes certificates.
type authority struct {
	t    *testing.T
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	require.NoError(t, err)
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	a.file = a.write("ca.pem", "CERTIFICATE", der)
	return a
}

func (a *authority) write(name, kind string, der []byte) string {
	path := filepath.Join(a.dir, name)
	require.NoError(a.t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return path
}

// issue makes a certificate that is good until then, and its files.
func (a *authority) issue(name string, until time.Time) (pair tls.Certificate, cert, key string) {
	a.t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &own.PublicKey, a.key)
	require.NoError(a.t, err)
	keyDER, err := x509.MarshalECPrivateKey(own)
	require.NoError(a.t, err)
	cert, key = a.write(name+".pem", "CERTIFICATE", der), a.write(name+".key", "EC PRIVATE KEY", keyDER)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: own}, cert, key
}

func TestTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	later, past := time.Now().Add(time.Hour), time.Now().Add(-time.Minute)
	server, _, _ := ours.issue("server", later)
	old, _, _ := ours.issue("old", past)
	_, clientCert, clientKey := ours.issue("client", later)
	_, oldCert, oldKey := ours.issue("oldclient", past)
	_, strangeCert, strangeKey := theirs.issue("stranger", later)
	pool := x509.NewCertPool()
	pool.AddCert(ours.cert)
	mutual := &tls.Config{Certificates: []tls.Certificate{server}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}

	for name, c := range map[string]struct {
		server *tls.Config
		client TLS
		want   firerunner.Code
		torn   bool // TLS 1.3 refuses a client after its handshake: what it sees may be a connection that is torn
	}{
		"OK":                         {&tls.Config{Certificates: []tls.Certificate{server}}, TLS{CAFile: ours.file}, "", false},
		"by another name":            {&tls.Config{Certificates: []tls.Certificate{server}}, TLS{CAFile: ours.file, ServerName: "server"}, "", false},
		"mutual":                     {mutual, TLS{CAFile: ours.file, CertFile: clientCert, KeyFile: clientKey}, "", false},
		"ErrExpired":                 {&tls.Config{Certificates: []tls.Certificate{old}}, TLS{CAFile: ours.file}, firerunner.Unauthorized, false},
		"ErrAuthority":               {&tls.Config{Certificates: []tls.Certificate{server}}, TLS{CAFile: theirs.file}, firerunner.Unauthorized, false},
		"ErrSystemRoots":             {&tls.Config{Certificates: []tls.Certificate{server}}, TLS{}, firerunner.Unauthorized, false},
		"ErrName":                    {&tls.Config{Certificates: []tls.Certificate{server}}, TLS{CAFile: ours.file, ServerName: "x"}, firerunner.Unauthorized, false},
		"ErrPlainServer":             {nil, TLS{CAFile: ours.file}, firerunner.Unauthorized, false},
		"ErrPlainClient":             {&tls.Config{Certificates: []tls.Certificate{server}}, TLS{Insecure: true}, firerunner.Unavailable, false},
		"ErrNoClientCertificate":     {mutual, TLS{CAFile: ours.file}, firerunner.Unauthorized, true},
		"ErrClientExpired":           {mutual, TLS{CAFile: ours.file, CertFile: oldCert, KeyFile: oldKey}, firerunner.Unauthorized, true},
		"ErrClientOfAnotherAuhority": {mutual, TLS{CAFile: ours.file, CertFile: strangeCert, KeyFile: strangeKey}, firerunner.Unauthorized, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, 0)
			h.addHost(flintlocktest.Config{TLS: c.server, Token: "t"}, Host{Name: "h", TLS: c.client, Token: "t"})
			require.NoError(t, h.current().SetHosts(h.config.Hosts))
			err := h.current().ProbeHost(h.ctx, "h")
			is := func(err error) {
				t.Helper()
				if c.torn && firerunner.CodeOf(err) == firerunner.Unavailable {
					require.Contains(t, firerunner.HintOf(err), "certificate", "%v", err)
					return
				}
				require.Equal(t, c.want, firerunner.CodeOf(err), "%v", err)
			}
			is(err)
			if c.want != "" {
				require.NotEmpty(t, firerunner.HintOf(err))
				_, err = h.current().Create(h.ctx, h.spec("x", "h"))
				is(err)
				require.Empty(t, h.leftovers("x"))
				return
			}
			h.create("x", "h")
			h.until("x", firerunner.ReportStarted)
			h.destroyed("x")
		})
	}
}

// A host whose certificate is over is left alone after a while like one that does not answer. What is wrong with it is
// said all the same, and in the same words at each look: an event is made of every new one.
func TestTrouble_AfterBreaker(t *testing.T) {
	ours := newAuthority(t)
	old, _, _ := ours.issue("old", time.Now().Add(-time.Minute))
	h := newHouse(t, 0, func(c *Config) { c.BreakAfter, c.BreakFor = 2, time.Hour })
	h.addHost(flintlocktest.Config{TLS: &tls.Config{Certificates: []tls.Certificate{old}}}, Host{Name: "h", TLS: TLS{CAFile: ours.file}})
	require.NoError(t, h.current().SetHosts(h.config.Hosts))
	var said []string
	for range 5 {
		err := h.current().ProbeHost(h.ctx, "h")
		require.Equal(t, firerunner.Unauthorized, firerunner.CodeOf(err))
		said = append(said, err.Error())
	}
	require.Contains(t, said[0], "certificate has expired or is not yet valid, it ended at 20")
	require.Len(t, slices.Compact(said), 1)
}

func TestDated(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"x509: not yet valid: current time 2026-11-24T03:16:57Z is after 2026-11-23T00:00:00Z":     "x509: not yet valid, it ended at 2026-11-23T00:00:00Z",
		`desc = "not yet valid: current time 2026-11-24T03:16:57Z is before 2027-01-01T00:00:00Z"`: `desc = "not yet valid, it begins at 2027-01-01T00:00:00Z"`,
		"current time": "current time",
	} {
		require.Equal(t, want, dated(in))
	}
}
