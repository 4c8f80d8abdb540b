package provision

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
)

// errHostKey means that somebody else answered, or a guest that has not taken its host key: no other try mends that.
var errHostKey = errors.New("the guest shows another host key than the one that was made for it")

// connect waits for sshd and logs in, with growing pauses, for Timeouts.Connect at most. Early in a boot nothing
// answers, and sshd may answer before it knows the user.
func (g *guest) connect(ctx context.Context) error {
	g.close()
	ctx, cancel := context.WithTimeout(ctx, g.Timeouts.Connect)
	defer cancel()
	pause := 100 * time.Millisecond
	for try := 1; ; try++ {
		client, err := g.attempt(ctx)
		if err == nil {
			g.client = client
			return nil
		}
		if errors.Is(err, errHostKey) {
			return g.failed("connect", err).WithHint("is the address another machine's? An image that makes its own host key needs its public half pinned in the profile")
		}
		g.Logger.Debug("sshd does not let us in yet", "vm", g.ID, "try", try, "error", err)
		wait := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-wait.C:
			pause = min(2*pause, 5*time.Second)
		case <-ctx.Done():
			wait.Stop()
			return g.failed("connect", fmt.Errorf("no login within %v, %d tries, the last: %w", g.Timeouts.Connect, try, err)).
				WithHint("does the image start sshd, let %s in by key, and does the host's network reach the microVM?", g.User)
		}
	}
}

func (g *guest) attempt(ctx context.Context) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, g.Timeouts.Attempt)
	defer cancel()
	conn, err := g.Dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // the one way to end a handshake that waits
	wrong := false
	c, channels, requests, err := ssh.NewClientConn(conn, g.ID, &ssh.ClientConfig{
		User: g.User,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(g.Key)},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			for _, accepted := range g.HostKeys {
				if key.Type() == accepted.Type() && string(key.Marshal()) == string(accepted.Marshal()) {
					return nil
				}
			}
			wrong = true
			return errHostKey
		},
		HostKeyAlgorithms: algorithms(g.HostKeys),
	})
	if !stop() && err == nil {
		_ = c.Close()
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		if wrong {
			return nil, errHostKey
		}
		return nil, err
	}
	return ssh.NewClient(c, channels, requests), nil
}

// algorithms are those by which a guest can prove that it has one of the keys.
func algorithms(keys []ssh.PublicKey) (names []string) {
	for _, key := range keys {
		if key.Type() == ssh.KeyAlgoRSA { // its own name stands for SHA-1: RFC 8332
			names = append(names, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512)
			continue
		}
		names = append(names, key.Type())
	}
	return names
}

func (g *guest) close() {
	if g.client != nil {
		_ = g.client.Close()
		g.client = nil
	}
}
