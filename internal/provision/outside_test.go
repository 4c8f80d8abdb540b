package provision

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"gopkg.in/yaml.v3"

	"github.com/firerunner/firerunner"
)

// cloudConfig is what the tests read of user-data.
type cloudConfig struct {
	Bootcmd        [][]string
	DisableRoot    bool              `yaml:"disable_root"`
	DeleteKeys     bool              `yaml:"ssh_deletekeys"`
	Keys           map[string]string `yaml:"ssh_keys"`
	AuthorizedKeys []string          `yaml:"ssh_authorized_keys"`
	Users          []struct {
		Name           string
		Sudo           []string
		AuthorizedKeys []string `yaml:"ssh_authorized_keys"`
	}
}

func parsed(t *testing.T, userData firerunner.Secret) (c cloudConfig) {
	t.Helper()
	require.True(t, strings.HasPrefix(userData.Reveal(), "#cloud-config\n"))
	require.NoError(t, yaml.Unmarshal([]byte(userData.Reveal()), &c))
	return c
}

func (r *run) maker() Maker {
	return Maker{Settings: r.cfg.Settings, Arguments: r.cfg.Arguments, Parse: r.cfg.Parse}
}

// The keys that are made for a microVM are those with which it is entered.
func TestOutsideOK(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	spec := firerunner.MicroVMSpec{ID: "vm1", Deadline: time.Now().Add(time.Hour), SSH: firerunner.SSHAccess{
		RunnerPath: r.cfg.Runner.Path, RunnerSHA256: r.cfg.Runner.SHA256, ConnectTimeout: 20 * time.Second,
	}}
	outside, err := r.maker().Outside("h1", spec)
	require.NoError(t, err)
	c := parsed(t, outside.UserData)
	require.False(t, c.DisableRoot)
	require.True(t, c.DeleteKeys)
	require.Empty(t, c.Users)
	require.Len(t, c.AuthorizedKeys, 1)
	require.Contains(t, c.Bootcmd[0][2], "--on-active=35")
	host, err := ssh.ParsePrivateKey([]byte(c.Keys["ed25519_private"]))
	require.NoError(t, err)
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(c.Keys["ed25519_public"]))
	require.NoError(t, err)
	require.Equal(t, public.Marshal(), host.PublicKey().Marshal())

	r.machine.restart(firerunner.Secret(c.Keys["ed25519_private"]), c.AuthorizedKeys[0])
	r.finish()
	shut := false
	err = outside.Run(t.Context(), firerunner.OutsideWay{
		Dial: func(ctx context.Context, port int) (net.Conn, error) {
			require.Equal(t, 22, port)
			return r.cfg.Dial(ctx)
		},
		Start: r.cfg.Start, Report: r.cfg.Report, Orders: r.orders,
		Shut: func() bool { shut = true; return true },
	})
	require.NoError(t, err)
	require.Equal(t, whole, r.kinds())
	require.True(t, shut)
	require.NoFileExists(t, filepath.Join(r.machine.dir, "ip"), "nothing to do in the guest")

	again, err := r.maker().Outside("h1", spec)
	require.NoError(t, err)
	require.NotEqual(t, c.Keys, parsed(t, again.UserData).Keys, "a key is one microVM's")
}

// An image may bring its own host key, and a user of its own.
func TestOutsidePinned(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	spec := firerunner.MicroVMSpec{ID: "vm1", Deadline: time.Now().Add(time.Hour), SSH: firerunner.SSHAccess{
		User: "debian", Port: 2222, HostKeys: []string{r.machine.keys.HostPublic + " comment"},
		RunnerPath: r.cfg.Runner.Path, RunnerSHA256: r.cfg.Runner.SHA256,
	}}
	outside, err := r.maker().Outside("h1", spec)
	require.NoError(t, err)
	c := parsed(t, outside.UserData)
	require.False(t, c.DeleteKeys)
	require.Empty(t, c.Keys)
	require.Empty(t, c.AuthorizedKeys)
	require.True(t, c.DisableRoot)
	require.Equal(t, "debian", c.Users[0].Name)
	require.Contains(t, c.Users[0].Sudo[0], "NOPASSWD")
	r.machine.restart(r.machine.keys.HostSecret, c.Users[0].AuthorizedKeys[0])
	r.finish()
	require.NoError(t, outside.Run(t.Context(), firerunner.OutsideWay{
		Dial: func(ctx context.Context, port int) (net.Conn, error) {
			require.Equal(t, 2222, port)
			return r.cfg.Dial(ctx)
		},
		Start: r.cfg.Start, Report: r.cfg.Report, Orders: r.orders, Shut: func() bool { return true },
	}))
	require.Equal(t, whole, r.kinds())

	spec.SSH.HostKeys = []string{"ssh-ed25519 AAAA"}
	_, err = r.maker().Outside("h1", spec)
	require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
}

// Where the metadata cannot be taken away outside, the guest blocks it before anything else, and says so if it cannot.
func TestRunBlocksMetadata(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	r.cfg.Shut = func() bool { return false }
	for name, address := range map[string]string{"net/eth0/address": metadataMAC, "net/eth1/address": "52:54:00:12:34:56"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(r.machine.dir, name)), 0o755))
		r.machine.write(name, address+"\n")
	}
	r.finish()
	require.NoError(t, r.start()())
	require.Equal(t, whole, r.kinds())
	ip := r.machine.read("ip")
	require.Contains(t, ip, "route replace blackhole 169.254.169.254/32\n")
	require.Contains(t, ip, "link set dev eth0 down\n")
	require.NotContains(t, ip, "eth1")
	require.Contains(t, ip, "route get 169.254.169.254\n")
}

func TestRunErrMetadata(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	r.cfg.Shut = func() bool { return false }
	r.machine.write("bin/ip", "#!/bin/sh\nexit 0\n") // it does nothing, and the way is open
	err := r.start()()
	require.ErrorContains(t, err, `step "close the metadata service"`)
	require.ErrorContains(t, err, "it can still be reached")
	require.NoFileExists(t, filepath.Join(r.machine.dir, "run/private/config.toml"))
}

// An order that comes before gitlab-runner was started means that it is not.
func TestRunOrderEarly(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	r.machine.write("bin/useradd", "#!/bin/sh\nexec sleep 60\n")
	wait := r.start()
	r.until(firerunner.ReportHello)
	r.orders <- firerunner.OrderFinish
	require.NoError(t, wait())
	require.Equal(t, []firerunner.ReportKind{firerunner.ReportHello, firerunner.ReportRunnerExited}, r.kinds())
	require.NoFileExists(t, filepath.Join(r.machine.dir, "run/log"))
}

// Names are looked up where the microVM's network says, unless the system has a way of its own.
func TestRunDNS(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	r.cfg.Start.Network.DNS = "10.42.0.1"
	r.finish()
	require.NoError(t, r.start()())
	require.Equal(t, "nameserver 10.42.0.1\n", r.machine.read("resolv.conf"))
	for _, report := range r.reports {
		if report.Kind == firerunner.ReportNotice && strings.HasPrefix(report.Message, "install gitlab-runner: done in ") {
			return
		}
	}
	t.Fatal("the timeline does not show the steps")
}

// Whoever provisions may go away: the job goes on, and nobody is told otherwise.
func TestRunContext(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, r.cfg) }()
	r.until(firerunner.ReportTookJob)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.Equal(t, whole[:3], r.kinds())
	require.NoFileExists(t, filepath.Join(r.machine.dir, "off"))
	r.finish()
	require.Eventually(t, func() bool { return r.machine.read("run/exit") == "0\n" }, 20*time.Second, 10*time.Millisecond, "the job came to its end")
}
