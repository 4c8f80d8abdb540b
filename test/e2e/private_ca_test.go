package e2e

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
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// privateGitLab is GitLab's address in guests where it speaks HTTPS.
const privateGitLab = "https://gitlab.firerunner.internal"

// authority is a CA that nobody trusts by himself, and a certificate of it for GitLab.
type authority struct {
	file        string // the CA's own, in PEM
	certificate tls.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	now := time.Now()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a private authority"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	ca, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	a := &authority{file: filepath.Join(t.TempDir(), "ca.pem")}
	require.NoError(t, os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))

	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		DNSNames: []string{"gitlab.firerunner.internal"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err = x509.CreateCertificate(rand.Reader, leaf, ca, &own.PublicKey, key)
	require.NoError(t, err)
	a.certificate = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: own}
	return a
}

// TestPrivateCA runs a job of a GitLab whose certificate is of a private CA. gitlab-runner reaches it by the relay; git, the
// job's own programs and the artifacts go there by themselves.
func TestPrivateCA(t *testing.T) {
	t.Parallel()
	s := newSite(t, options{private: newAuthority(t), files: map[string]string{"src/deep/file.txt": "deep\n"}})
	p := s.push(`default: {tags: [firecracker-1cpu-1gb]}
clone:
  script:
    - cat README.md src/deep/file.txt
    - git remote get-url origin | sed 's,//[^@]*@,//,'
    - git ls-remote --heads origin | sed 's/^[0-9a-f]*/remote has/'
    - 'curl -sS -m 10 -o /dev/null -w "by the system: %{http_code}\n" "$CI_SERVER_URL/"'
    - 'curl -sS -m 10 --capath /nowhere --cacert "$CI_SERVER_TLS_CA_FILE" -o /dev/null -w "by the variable: %{http_code}\n" "$CI_SERVER_URL/"'
    - 'curl -sS -m 10 --cacert /dev/null "$CI_SERVER_URL/" || echo "by nobody"'
    - mkdir out && echo precious > out/made.txt
  artifacts: {paths: [out/]}
`)
	require.Len(t, p.JobIDs, 1)
	j := s.succeeded(p.JobIDs[0])
	log := s.trace(j.ID)
	for _, want := range []string{
		"# A repository for tests", "deep", privateGitLab + "/group/app.git", "remote has\trefs/heads/main",
		"by the system: ", "by the variable: ", "by nobody", "Uploading artifacts as \"archive\" to coordinator... 201 Created",
	} {
		require.Contains(t, log, want)
	}
	require.NotRegexp(t, `by the (system|variable): 000`, log)
	r := s.row(j.ID)
	require.Equal(t, firerunner.Succeeded, r.Outcome)
	took := s.events(firerunner.EventQuery{RunnerID: r.ID, Kinds: []firerunner.EventKind{firerunner.EventTookJob}})
	require.Len(t, took, 1)
}
