package provision

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/firerunner/firerunner"
)

// Maker makes what stands outside of microVMs whose image has no agent. Settings, Arguments and Parse are as in Config.
type Maker struct {
	Settings  func(firerunner.GuestStart) (toml string, err error)
	Arguments func(start firerunner.GuestStart, settings string) []string
	Parse     func(line []byte) (r firerunner.GuestReport, ok bool)

	Random io.Reader        // nil = crypto/rand
	Now    func() time.Time // nil = time.Now
	Logger *slog.Logger     // nil: nothing is logged
}

// Outside makes the keys of one microVM, and what it is provisioned with. host is for messages.
func (m Maker) Outside(host string, spec firerunner.MicroVMSpec) (firerunner.Outside, error) {
	if m.Random == nil {
		m.Random = rand.Reader
	}
	if m.Now == nil {
		m.Now = time.Now
	}
	keys, err := NewKeys(m.Random)
	if err != nil {
		return firerunner.Outside{}, err
	}
	accepted := []ssh.PublicKey{keys.Host}
	if len(spec.SSH.HostKeys) > 0 {
		if accepted, err = pinned(spec.SSH.HostKeys); err != nil {
			return firerunner.Outside{}, err
		}
		keys.HostSecret = ""
	}
	cfg := Config{
		Host: host, ID: spec.ID, User: spec.SSH.User, Key: keys.Login, HostKeys: accepted,
		Runner:   Runner{Path: spec.SSH.RunnerPath, URL: spec.SSH.RunnerURL, SHA256: spec.SSH.RunnerSHA256},
		Settings: m.Settings, Arguments: m.Arguments, Parse: m.Parse, Logger: m.Logger,
		Timeouts: Timeouts{Connect: spec.SSH.ConnectTimeout, Step: spec.SSH.StepTimeout, Upload: spec.SSH.UploadTimeout},
	}
	if cfg.User == "" {
		cfg.User = "root"
	}
	return firerunner.Outside{
		UserData: userData(keys, cfg.User, spec.Deadline.Sub(m.Now())),
		Run: func(ctx context.Context, way firerunner.OutsideWay) error {
			cfg := cfg
			port := spec.SSH.Port
			if port == 0 {
				port = 22
			}
			cfg.Dial = func(ctx context.Context) (net.Conn, error) { return way.Dial(ctx, port) }
			cfg.Start, cfg.Report, cfg.Orders, cfg.Shut = way.Start, way.Report, way.Orders, way.Shut
			return Run(ctx, cfg)
		},
	}, nil
}

// pinned reads public keys as known_hosts has them, without the name.
func pinned(texts []string) ([]ssh.PublicKey, error) {
	var keys []ssh.PublicKey
	for _, text := range texts {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
		if err != nil {
			return nil, firerunner.Errorf(firerunner.Invalid, "provision: a pinned host key is no public key: %w", err).
				WithHint("ssh-ed25519 AAAA..., as in /etc/ssh/ssh_host_ed25519_key.pub of the image")
		}
		keys = append(keys, key)
	}
	return keys, nil
}
