package guest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/firerunner/firerunner"
)

// certificateFile holds the endpoint's key and certificate. It is one file, so that the two cannot part.
const certificateFile = "guest-endpoint.pem"

// LoadCertificate returns the endpoint's certificate from a folder and makes it first where there is none: a new
// ed25519 key, signed by itself. Guests know it by its Fingerprint, so it stays the same for as long as the file
// does; no name and no date in it matters. Only the owner can read the file, it is there whole or not at all, and of
// several processes at once one makes it and all get that one. Errors: Unavailable; Invalid for a file that is
// damaged or that others can read.
func LoadCertificate(dir string) (tls.Certificate, error) {
	path := filepath.Join(dir, certificateFile)
	found, err := readCertificate(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return found, err
	}
	text, err := makeCertificate()
	if err != nil {
		return tls.Certificate{}, firerunner.Errorf(firerunner.Internal, "make the guest endpoint's certificate: %w", err)
	}
	if err := placeCertificate(path, text); err != nil {
		return tls.Certificate{}, firerunner.Errorf(firerunner.Unavailable, "keep the guest endpoint's certificate: %w", err)
	}
	return readCertificate(path) // ours, or that of whoever was first
}

func readCertificate(path string) (tls.Certificate, error) {
	fail := func(code firerunner.Code, err error) (tls.Certificate, error) {
		return tls.Certificate{}, firerunner.Errorf(code, "read the guest endpoint's certificate: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fail(firerunner.Unavailable, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return tls.Certificate{}, firerunner.Errorf(firerunner.Invalid, "read the guest endpoint's certificate: others can read its key, %s", path).
			WithHint("remove the file: a new one is made; guests that run now are then lost")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fail(firerunner.Unavailable, err)
	}
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return fail(firerunner.Invalid, err)
	}
	return pair, nil
}

// makeCertificate returns a key and a certificate as PEM.
func makeCertificate() ([]byte, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "firerunner guest endpoint"},
		DNSNames:     []string{"firerunner"},
		NotBefore:    now.AddDate(0, 0, -1),
		NotAfter:     now.AddDate(30, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: certificate}) // a Buffer takes everything
	_ = pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: key})
	return b.Bytes(), nil
}

// placeCertificate writes the file under a name of its own and gives it its real one, unless that is taken.
func placeCertificate(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), certificateFile+".*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Fingerprint is how a guest knows the endpoint: "sha256:" and the SHA-256 of its certificate (DER) in hexadecimal.
func Fingerprint(certificate tls.Certificate) string {
	if len(certificate.Certificate) == 0 {
		return ""
	}
	sum := sha256.Sum256(certificate.Certificate[0])
	return fingerprintHead + hex.EncodeToString(sum[:])
}
