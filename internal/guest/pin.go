package guest

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"strings"
)

const fingerprintHead = "sha256:"

// ParseFingerprint reads what Fingerprint writes.
func ParseFingerprint(text string) (sum [sha256.Size]byte, err error) {
	digits, found := strings.CutPrefix(text, fingerprintHead)
	if !found || len(digits) != 2*len(sum) {
		return sum, errors.New("a fingerprint is sha256: and 64 hexadecimal digits")
	}
	if _, err := hex.Decode(sum[:], []byte(digits)); err != nil {
		return sum, errors.New("a fingerprint is sha256: and 64 hexadecimal digits")
	}
	return sum, nil
}

// pinned is a guest's side of TLS: it takes the one certificate that it was told of, whatever names and dates are in
// it, and nothing older than TLS 1.3. That the other side has the certificate's key is checked by TLS itself.
func pinned(want [sha256.Size]byte) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{Protocol},
		// The fingerprint is checked in place of a chain and a name.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return errors.New("the endpoint has no certificate")
			}
			got := sha256.Sum256(state.PeerCertificates[0].Raw)
			if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
				return errors.New("the endpoint's certificate is not the one that the metadata names")
			}
			if state.NegotiatedProtocol != Protocol {
				return errors.New("the endpoint does not speak " + Protocol)
			}
			return nil
		},
	}
}
