package provision

import (
	"crypto/ed25519"
	"encoding/pem"
	"io"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/firerunner/firerunner"
)

// Keys are the two key pairs of one microVM: what it shows, and what opens it. They are made for it and kept in memory
// only.
type Keys struct {
	Host       ssh.PublicKey     // goes into Config.HostKeys
	HostPublic string            // the same as one line
	HostSecret firerunner.Secret // the guest's half, in OpenSSH's PEM form; goes into the guest by its metadata
	Login      ssh.Signer        // goes into Config.Key
	Authorized string            // one line of authorized_keys for Login
}

// NewKeys makes both pairs.
func NewKeys(random io.Reader) (Keys, error) {
	shown, err := ssh25519(random)
	if err != nil {
		return Keys{}, err
	}
	opens, err := ssh25519(random)
	if err != nil {
		return Keys{}, err
	}
	block, err := ssh.MarshalPrivateKey(shown.secret, "made for one microVM")
	if err != nil {
		return Keys{}, firerunner.Errorf(firerunner.Internal, "provision: writing a host key: %w", err)
	}
	return Keys{
		Host: shown.signer.PublicKey(), HostPublic: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(shown.signer.PublicKey()))),
		HostSecret: firerunner.Secret(pem.EncodeToMemory(block)),
		Login:      opens.signer, Authorized: string(ssh.MarshalAuthorizedKey(opens.signer.PublicKey())),
	}, nil
}

type pair struct {
	secret ed25519.PrivateKey
	signer ssh.Signer
}

func ssh25519(random io.Reader) (pair, error) {
	_, secret, err := ed25519.GenerateKey(random)
	if err != nil {
		return pair{}, firerunner.Errorf(firerunner.Internal, "provision: making a key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(secret)
	if err != nil {
		return pair{}, firerunner.Errorf(firerunner.Internal, "provision: making a key: %w", err)
	}
	return pair{secret, signer}, nil
}
