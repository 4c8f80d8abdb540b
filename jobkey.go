package firerunner

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
)

// JobKey is a job's own token, sealed in the guest that was given the job: only who has FireRunner's own GitLab token can
// open it. It is printable text, and no secret: it may be written down, backed up and moved. With what is in it GitLab can
// be told that the job failed, when the guest cannot any more (see JobFailer).
//
// It comes from a guest, so it is an attacker's until it is opened, and then still only a token that the guest had anyway.
type JobKey string

const (
	// MaxJobKey is the longest job key in bytes. GitLab's job tokens have some 26 characters, and up to about 1,500 where
	// they are JSON Web Tokens.
	MaxJobKey = 6 << 10
	// MaxJobToken is the longest token in bytes that is sealed.
	MaxJobToken = 4 << 10
)

// Valid reports whether it can be one: short enough, and of the characters of base64.
func (k JobKey) Valid() bool {
	for i := range len(k) {
		c := k[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return len(k) <= MaxJobKey
}

// The suite of https://www.rfc-editor.org/rfc/rfc9180. A job's token is worth nothing when the job has ended, so nothing is
// won by storing what is sealed until somebody can break it.
func sealKEM() hpke.KEM   { return hpke.DHKEM(ecdh.X25519()) }
func sealKDF() hpke.KDF   { return hpke.HKDFSHA256() }
func sealAEAD() hpke.AEAD { return hpke.ChaCha20Poly1305() }

// sealInfo binds what is sealed to one job of one runner.
func sealInfo(runnerID string, jobID int64) []byte {
	return fmt.Appendf(nil, "firerunner job key 1\x00%s\x00%d", runnerID, jobID)
}

// SealJobKey seals a job's token for whoever has the other half of a public key (SealKey.Public). Its errors never repeat
// the token.
func SealJobKey(public, runnerID string, jobID int64, token Secret) (JobKey, error) {
	if token == "" || len(token) > MaxJobToken {
		return "", Errorf(Invalid, "sealing the token of job %d: it has %d bytes", jobID, len(token))
	}
	raw, err := base64.RawURLEncoding.DecodeString(public)
	if err != nil {
		return "", Errorf(Invalid, "sealing the token of job %d: the public key cannot be read", jobID)
	}
	to, err := sealKEM().NewPublicKey(raw)
	if err != nil {
		return "", Errorf(Invalid, "sealing the token of job %d: the public key is none: %w", jobID, err)
	}
	sealed, err := hpke.Seal(to, sealKDF(), sealAEAD(), sealInfo(runnerID, jobID), []byte(token.Reveal()))
	if err != nil {
		return "", Errorf(Internal, "sealing the token of job %d: %w", jobID, err)
	}
	return JobKey(base64.RawURLEncoding.EncodeToString(sealed)), nil
}

// SealKey opens job keys. It is derived from FireRunner's own GitLab token, so it is written down nowhere, every controller
// of a site has the same one, and who has it could do more than any job token permits already.
type SealKey struct {
	private hpke.PrivateKey
	public  string
}

// NewSealKey derives it.
func NewSealKey(own Secret) (*SealKey, error) {
	if own == "" {
		return nil, Errorf(Invalid, "deriving the key for job keys: there is no token")
	}
	seed, err := hkdf.Key(sha256.New, []byte(own.Reveal()), []byte("firerunner"), "seal key 1", 32)
	if err != nil {
		return nil, Errorf(Internal, "deriving the key for job keys: %w", err)
	}
	private, err := sealKEM().DeriveKeyPair(seed)
	if err != nil {
		return nil, Errorf(Internal, "deriving the key for job keys: %w", err)
	}
	return &SealKey{private: private, public: base64.RawURLEncoding.EncodeToString(private.PublicKey().Bytes())}, nil
}

// Public is the half that every guest is given.
func (k *SealKey) Public() string { return k.public }

// Open returns the token that was sealed for a job of a runner. Unauthorized: it was sealed for another key, another
// runner or another job, or is no job key at all.
func (k *SealKey) Open(key JobKey, runnerID string, jobID int64) (Secret, error) {
	if !key.Valid() {
		return "", Errorf(Unauthorized, "opening the key of job %d: it is none", jobID)
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(string(key))
	if err != nil {
		return "", Errorf(Unauthorized, "opening the key of job %d: it is none", jobID)
	}
	token, err := hpke.Open(k.private, sealKDF(), sealAEAD(), sealInfo(runnerID, jobID), sealed)
	if err != nil {
		return "", Errorf(Unauthorized, "opening the key of job %d of runner %s: it was sealed for something else", jobID, runnerID)
	}
	if len(token) == 0 || len(token) > MaxJobToken {
		return "", Errorf(Unauthorized, "opening the key of job %d: what is in it is no token", jobID)
	}
	for _, c := range token { // it becomes a header
		if c <= ' ' || c > '~' {
			return "", Errorf(Unauthorized, "opening the key of job %d: what is in it is no token", jobID)
		}
	}
	return Secret(token), nil
}

// String keeps the private half out of logs.
func (k *SealKey) String() string { return "seal key" }

// GoString does the same for %#v.
func (k *SealKey) GoString() string { return k.String() }
