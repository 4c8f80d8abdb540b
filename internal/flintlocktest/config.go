package flintlocktest

import (
	"crypto/rand"
	"crypto/tls"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/firerunner/firerunner"
)

// Config says how a [Server] behaves. The zero value of every field but Dir is usable.
type Config struct {
	// Addr is the address to listen on; default 127.0.0.1:0.
	Addr string
	// Dir is where machines keep consoles and disks. Required; the caller removes it.
	Dir string
	// Token, if set, has to come with every call as "authorization: Basic base64(token)".
	Token firerunner.Secret
	// TLS, if set, is what the server identifies itself with. It is held to TLS 1.3, as flintlockd is. ClientCAs with
	// ClientAuth is mutual TLS. Nil is flintlockd's --insecure.
	TLS *tls.Config

	// VMM starts the machines; default Scripted{}, whose guests do nothing.
	VMM VMM
	// Images is where kernels and disks come from. Nil: every well-formed reference exists and has nothing in it,
	// which is enough for a VMM that boots nothing.
	Images ImageSource
	// Capacity is what the machine really has. A microVM that no longer fits does not start, which is tried again
	// later. Zero is no limit; flintlockd itself knows of none.
	Capacity Capacity

	// RetryDelay is what the loop waits after a microVM's first failure; after the nth it is n times that. Default
	// 20 s, as flintlockd has it.
	RetryDelay time.Duration
	// MaxRetry is how often it tries again before FAILED; default 10.
	MaxRetry int
	// ResyncPeriod is how often every record is looked at again, and dead machines are started; default 10 min.
	// It also happens at each start of the daemon, and with [Server.Resync].
	ResyncPeriod time.Duration
	// RestartAfter is how soon a supervisor starts a daemon that died; 0 is never, see [Server.StartDaemon].
	RestartAfter time.Duration
	// StateDir is flintlockd's --state-dir as far as lengths of paths go; default /var/lib/flintlock.
	StateDir string

	// Seed seeds what is random: the order of lists and of kernel words, and faults in percent.
	Seed uint64
	// Now is the clock of recorded times and of uids; default time.Now.
	Now func() time.Time
	// Rand is where uids come from; default crypto/rand.
	Rand io.Reader
	// Logger takes one line per transition; default: discard.
	Logger *slog.Logger
}

// Capacity is an amount of processors and memory.
type Capacity struct {
	VCPUs     int
	MemoryMiB int
}

func (c Config) withDefaults() Config {
	if c.Addr == "" {
		c.Addr = "127.0.0.1:0"
	}
	if c.VMM == nil {
		c.VMM = Scripted{}
	}
	if c.RetryDelay == 0 {
		c.RetryDelay = 20 * time.Second
	}
	if c.MaxRetry == 0 {
		c.MaxRetry = 10
	}
	if c.ResyncPeriod == 0 {
		c.ResyncPeriod = 10 * time.Minute
	}
	if c.StateDir == "" {
		c.StateDir = "/var/lib/flintlock"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// machineDir is where the files of one machine are.
func (s *Server) machineDir(uid string) string { return filepath.Join(s.cfg.Dir, "vm", uid) }
