package flintlock

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

// DefaultStateDir is where flintlockd keeps its state unless it is told otherwise.
const DefaultStateDir = "/var/lib/flintlock"

// Config is what a Driver needs.
type Config struct {
	Name      string            // its word in configuration, logs and rows; empty = "flintlock"
	Namespace string            // from the installation's id: nobody else's microVMs are ever touched. 1 to 31 of a-z 0-9 -
	Hosts     []Host            // may be replaced later, see SetHosts
	Ledger    firerunner.Ledger // what must outlive the daemon
	GuestURL  string            // host:port of the guest endpoint, as guests reach it
	// GuestFingerprint is the SHA-256 of the guest endpoint's certificate: sha256: and 64 hexadecimal digits.
	GuestFingerprint string
	// Partition is whose rows of the ledger are this driver's; empty = Name. Two drivers on one ledger have two, and two
	// Namespaces.
	Partition string
	// Others returns the guest endpoints of other controllers, which may stand in for this one; nil: there are none.
	Others func() []Door
	// Install is what cloud-init images download before the agent starts; our own images have it already.
	Install []Download
	// AllowTags accepts image references without a digest. What boots may then change under us.
	AllowTags bool

	// Outside makes what stands in for the agent of a microVM whose image has none; nil: such microVMs are refused.
	Outside func(host string, spec firerunner.MicroVMSpec) (firerunner.Outside, error)
	// Dial connects to a microVM that is provisioned over SSH; nil = from this machine, which must have a way to the
	// hosts' guests.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	CallTimeout      time.Duration // of one call to a host; 0 = 10 s
	DestroyTimeout   time.Duration // until Destroy gives up waiting for a host; 0 = 45 s
	HeartbeatTimeout time.Duration // silence of an admitted guest until it counts as dead; 0 = 2 min. A quarter of it is what guests are told as their heartbeat
	OrderTimeout     time.Duration // until a guest that was admitted must have called again for an order; 0 = 5 s
	LookEvery        time.Duration // between two looks at what a host has of ours; 0 = 10 s
	BusyEvery        time.Duration // the same while something is being made or removed there; 0 = 1 s
	BreakAfter       int           // calls in a row without an answer until a host is left alone; 0 = 5
	BreakFor         time.Duration // how long it is left alone; 0 = 10 s
	CallsAtOnce      int           // to one host; 0 = 8
	ConsoleBytes     int           // most that is kept of one guest's console; 0 = 256 KiB

	// Beside makes a driver that works beside another process's on the same ledger: it lists and destroys what it is told
	// to, and ends nothing by itself, because only the other one knows whose guest is about to call.
	Beside bool

	Now    func() time.Time // nil = time.Now
	Logger *slog.Logger     // nil = slog.Default
}

// Host is a machine that runs flintlockd.
type Host struct {
	Name     string // as placement and events say it
	Endpoint string // host:port of flintlockd's gRPC
	Token    firerunner.Secret
	TLS      TLS
	Bridge   string // for guests' own interface; empty = the daemon's --bridge-name
	StateDir string // flintlockd's; empty = DefaultStateDir. Only its length matters
	GuestURL string // where this host's guests reach the guest endpoint; empty = Config.GuestURL
	// Image replaces, field by field, what every image says of itself, and Images does so for one image by its name:
	// a host may have a kernel or a mirror of its own.
	Image  firerunner.OCIImage
	Images map[string]firerunner.OCIImage
}

// TLS is how a host is spoken to. TLS 1.3 is the least, as flintlockd has it.
type TLS struct {
	Insecure   bool   // no TLS at all: the token and every guest's one-time token go over the network in the clear
	CAFile     string // PEM; empty = the system's roots
	CertFile   string // for mutual TLS; read again for each connection, so that it can be renewed
	KeyFile    string
	ServerName string // empty = the endpoint's host
}

// Door is a guest endpoint and how it is known.
type Door struct {
	Endpoint    string `json:"endpoint"`    // host:port
	Fingerprint string `json:"fingerprint"` // of its certificate: sha256: and 64 hexadecimal digits
}

// Download is a file that a guest fetches before the agent starts.
type Download struct {
	Path   string // where it goes in the guest; mode 0755
	URL    string
	SHA256 string // 64 hexadecimal digits; what has another one is not run
}

func (c Config) withDefaults() Config {
	durations := []struct {
		value *time.Duration
		or    time.Duration
	}{
		{&c.CallTimeout, 10 * time.Second},
		{&c.DestroyTimeout, 45 * time.Second},
		{&c.HeartbeatTimeout, 2 * time.Minute},
		{&c.OrderTimeout, 5 * time.Second},
		{&c.LookEvery, 10 * time.Second},
		{&c.BusyEvery, time.Second},
		{&c.BreakFor, 10 * time.Second},
	}
	for _, d := range durations {
		if *d.value <= 0 {
			*d.value = d.or
		}
	}
	if c.Name == "" {
		c.Name = "flintlock"
	}
	if c.Partition == "" {
		c.Partition = c.Name
	}
	if c.BreakAfter <= 0 {
		c.BreakAfter = 5
	}
	if c.CallsAtOnce <= 0 {
		c.CallsAtOnce = 8
	}
	if c.ConsoleBytes <= 0 {
		c.ConsoleBytes = 256 << 10
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// nameForm is what names of microVMs and namespaces may be: a slash in one makes a whole host unusable, and both become
// folders there.
var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,30}$`)

var hostForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// check refuses a configuration that cannot work.
func (c Config) check() error {
	switch {
	case c.Ledger == nil:
		return firerunner.Errorf(firerunner.Invalid, "flintlock: a ledger is needed")
	case !nameForm.MatchString(c.Namespace):
		return firerunner.Errorf(firerunner.Invalid, "flintlock: namespace %.40q is not 1 to 31 of a-z, 0-9 and -", c.Namespace)
	case c.Beside: // it makes none, so no guest will call
	case !isHostPort(c.GuestURL):
		return firerunner.Errorf(firerunner.Invalid, "flintlock: the guest endpoint %.80q is not host:port", c.GuestURL).
			WithHint("set it to an address of this machine that guests reach from their bridge")
	case !isFingerprint(c.GuestFingerprint):
		return firerunner.Errorf(firerunner.Invalid, "flintlock: the fingerprint of the guest endpoint is not sha256: and 64 hexadecimal digits")
	}
	for _, f := range c.Install {
		if err := f.check(); err != nil {
			return err
		}
	}
	return nil
}

// checkHosts refuses a list of hosts that cannot work.
func checkHosts(hosts []Host) error {
	seen := map[string]bool{}
	for _, h := range hosts {
		switch {
		case !hostForm.MatchString(h.Name):
			return firerunner.Errorf(firerunner.Invalid, "flintlock: host name %.80q is not 1 to 63 letters, digits, dots and dashes", h.Name)
		case seen[h.Name]:
			return firerunner.Errorf(firerunner.Invalid, "flintlock: two hosts are called %s", h.Name)
		case !isHostPort(h.Endpoint):
			return firerunner.Errorf(firerunner.Invalid, "flintlock: host %s: endpoint %.80q is not host:port", h.Name, h.Endpoint)
		case h.GuestURL != "" && !isHostPort(h.GuestURL):
			return firerunner.Errorf(firerunner.Invalid, "flintlock: host %s: the guest endpoint %.80q is not host:port", h.Name, h.GuestURL)
		case h.TLS.Insecure && (h.TLS.CAFile != "" || h.TLS.CertFile != "" || h.TLS.KeyFile != ""):
			return firerunner.Errorf(firerunner.Invalid, "flintlock: host %s: certificates and insecure exclude one another", h.Name)
		case (h.TLS.CertFile == "") != (h.TLS.KeyFile == ""):
			return firerunner.Errorf(firerunner.Invalid, "flintlock: host %s: mutual TLS needs a certificate and its key", h.Name)
		case strings.ContainsAny(h.Token.Reveal(), "\r\n\x00"):
			return firerunner.Errorf(firerunner.Invalid, "flintlock: host %s: the token has more than one line", h.Name)
		}
		seen[h.Name] = true
	}
	return nil
}

// image is what the host pulls for an image.
func (h Host) image(image firerunner.Image) firerunner.OCIImage {
	oci := image.OCI
	for _, over := range []firerunner.OCIImage{h.Image, h.Images[image.Name]} {
		// A reference and the file in it belong together.
		if over.Kernel != "" {
			oci.Kernel, oci.KernelFile = over.Kernel, or(over.KernelFile, oci.KernelFile)
		}
		if over.Initrd != "" {
			oci.Initrd, oci.InitrdFile = over.Initrd, or(over.InitrdFile, oci.InitrdFile)
		}
		oci.RootFS = or(over.RootFS, oci.RootFS)
	}
	return oci
}

func (h Host) stateDir() string { return or(h.StateDir, DefaultStateDir) }

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func isHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" || len(s) > 260 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' }) {
		return false
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return false
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return !a.IsUnspecified()
	}
	return true
}

func isFingerprint(s string) bool {
	digits, ok := strings.CutPrefix(s, "sha256:")
	b, err := hex.DecodeString(digits)
	return ok && err == nil && len(b) == 32
}
