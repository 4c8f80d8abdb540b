// Package qemu makes microVMs with QEMU's microvm machine, one shim process for each.
//
// The daemon side (Driver) makes a folder, a uid and a cgroup for the microVM, starts the shim in them and hands
// it the whole spec through a pipe. The shim side (RunShim) is qemu's parent: it owns the overlay disk, the
// console, the guest's network and the guest channel, keeps the reports, and serves them on <dir>/shim.sock. It
// outlives the daemon and is found again by that socket. qemu dies with its shim, and the shim ends its microVM
// at the deadline, whoever else is dead.
//
// What is trusted: the daemon alone. Guest, qemu and shim run as the microVM's own uid and may be hostile; the
// daemon opens nothing in their folder through a link, and bounds all that it reads from them.
package qemu

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/firerunner/firerunner"
)

// Defaults of Config.
const (
	firstUID              = 1_900_000_000 // above every range that systemd gives to users, services and containers
	uidRanges             = 200_000       // of defaultUIDCount each: all are below 2^31
	defaultUIDCount       = 1024
	defaultOverheadMiB    = 256 // qemu with a 64 MiB translation cache: 192; the shim with its network: 64
	defaultPidsMax        = 256 // qemu's pool of I/O threads alone may grow to 64
	defaultConsoleBytes   = 1 << 20
	defaultReportBytes    = 1 << 20
	defaultReportCount    = 4096
	defaultCreateTimeout  = time.Minute
	defaultDestroyTimeout = 30 * time.Second
	defaultStopGrace      = 5 * time.Second
	defaultLinger         = 10 * time.Minute
	defaultKVMProbe       = 5 * time.Second
)

// Accelerators.
const (
	AccelAuto = "auto" // KVM if a kernel boots with it, else TCG
	AccelKVM  = "kvm"
	AccelTCG  = "tcg"
)

// Config is what a Driver needs. Only StateDir has no default.
type Config struct {
	StateDir     string   // absolute; microVMs live in <StateDir>/vms/<id>/. As root, others must be able to pass it (o+x)
	Shim         []string // argv of the shim; empty = this executable with "shim"
	QEMU         string   // path or name; empty = qemu-system-x86_64
	QEMUImg      string   // path or name; empty = qemu-img
	Accel        string   // AccelAuto (default), AccelKVM or AccelTCG
	Host         string   // name of this host, for specs without one
	Installation string   // which FireRunner the microVMs belong to; empty = one for each StateDir

	// UIDBase and UIDCount are the numeric uids that microVMs run as when the daemon is root, one for each. The
	// first is for probes. They need no entry in /etc/passwd and must belong to nobody else: not to another
	// FireRunner either. 0 = 1024 uids above 1900000000 that follow from StateDir.
	UIDBase, UIDCount int

	// MinFreeMiB is the least room for overlays in StateDir with which another microVM is made; 0 = none is asked for.
	MinFreeMiB int

	MemoryOverheadMiB int     // host memory on top of a guest's own, for qemu and shim; 0 = 256
	CPUQuota          float64 // host CPUs for each vCPU; 0 = 1, negative = no quota
	PidsMax           int     // most processes and threads of one microVM; 0 = 256
	CgroupParent      string  // cgroup v2: where microVMs' groups are made; empty = /firerunner

	ConsoleBytes int64 // most that is kept of a console; 0 = 1 MiB
	ReportBytes  int64 // most that is kept of a guest's reports; 0 = 1 MiB
	ReportCount  int   // most reports of one guest; 0 = 4096

	CreateTimeout  time.Duration // from the call to a running qemu; 0 = 1 min
	DestroyTimeout time.Duration // until everything is gone; 0 = 30 s
	StopGrace      time.Duration // between asking qemu to end and ending it; 0 = 5 s
	Linger         time.Duration // how long a shim serves reports after its microVM's end; 0 = 10 min
	KVMProbe       time.Duration // how long a kernel may take to say something under KVM; 0 = 5 s

	ProbeImage *firerunner.Image // what Probe boots; nil = Probe boots nothing

	Logger *slog.Logger     `json:"-"` // nil = slog.Default
	Now    func() time.Time `json:"-"` // nil = time.Now

	crash func(step string) // called between any two steps of Create and Destroy; tests end the process in it
}

// Driver makes microVMs with QEMU. It is a firerunner.Driver and a firerunner.Console.
type Driver struct {
	cfg     Config
	log     *slog.Logger
	root    bool // microVMs get uids of their own
	vms     folder
	cgroups *cgroups

	tsc   tscClock
	short atomic.Bool // of room, when ProbeHost looked last

	deciding chan struct{} // held by the one that finds out the accelerator
	decided  decision      // under deciding
	probing  chan struct{} // held by the one that probes

	reapers   sync.WaitGroup // one for each shim that this process started
	reaping   context.Context
	endReaper context.CancelFunc
}

var (
	_ firerunner.Driver     = (*Driver)(nil)
	_ firerunner.Console    = (*Driver)(nil)
	_ firerunner.HostProber = (*Driver)(nil)
)

// New returns a driver whose microVMs live in cfg.StateDir. It makes the folder, and says what it cannot have
// here (cgroups, uids) in one log line; Limits tells it again. Missing programs are reported by Probe and Create.
func New(cfg Config) (*Driver, error) {
	if !filepath.IsAbs(cfg.StateDir) {
		return nil, firerunner.Errorf(firerunner.Invalid, "qemu: the state folder %q is not an absolute path", cfg.StateDir)
	}
	cfg.StateDir = filepath.Clean(cfg.StateDir)
	cfg = withDefaults(cfg)
	switch cfg.Accel {
	case AccelAuto, AccelKVM, AccelTCG:
	default:
		return nil, firerunner.Errorf(firerunner.Invalid, "qemu: accelerator %q is not one of auto, kvm, tcg", cfg.Accel)
	}
	d := &Driver{
		cfg: cfg, log: cfg.Logger.With("driver", name), root: os.Geteuid() == 0,
		vms:      folder(filepath.Join(cfg.StateDir, "vms")),
		deciding: make(chan struct{}, 1), probing: make(chan struct{}, 1),
	}
	if err := d.vms.checkSockets(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(string(d.vms), 0o711); err != nil {
		return nil, firerunner.Errorf(firerunner.Unavailable, "qemu: making the state folder: %w", err)
	}
	d.cgroups = findCgroups(cgroupConfig{Parent: cfg.CgroupParent, Installation: cfg.Installation})
	if reason := d.cgroups.missing(); reason != "" {
		d.log.Warn("microVMs run without some of the limits of cgroups", "reason", reason)
	}
	if !d.root {
		d.log.Warn("microVMs share the daemon's uid, as it is not root", "uid", os.Geteuid())
	}
	d.reaping, d.endReaper = context.WithCancel(context.Background())
	return d, nil
}

const name = "qemu"

// Name is "qemu".
func (d *Driver) Name() string { return name }

// Limits says what holds a microVM on this host besides qemu itself.
type Limits struct {
	OwnUID  bool   // each microVM has a uid of its own
	Cgroups string // the limits that cgroups hold: "memory, cpu, pids (v1)"; empty = none
	Missing string // why one of them is missing; empty = none is
}

// Limits says what holds a microVM on this host besides qemu itself.
func (d *Driver) Limits() Limits {
	return Limits{OwnUID: d.root, Cgroups: d.cgroups.held(), Missing: d.cgroups.missing()}
}

// Close ends the driver's own goroutines and waits for them. MicroVMs live on: their shims do not need it.
func (d *Driver) Close() error {
	d.endReaper()
	d.reapers.Wait()
	d.cgroups.leave()
	return nil
}

// step marks a place where the process may die. Tests make it die there.
func (d *Driver) step(name string) {
	if d.cfg.crash != nil {
		d.cfg.crash(name)
	}
}

// idForm is what an ID may look like: it becomes a file name and a cgroup name.
var idForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

func checkID(id string) error {
	if !idForm.MatchString(id) {
		return firerunner.Errorf(firerunner.Invalid, "qemu: %.80q is no microVM id: lower-case letters, digits and dashes, at most 63", id)
	}
	return nil
}

func withDefaults(cfg Config) Config {
	orString(&cfg.QEMU, "qemu-system-x86_64")
	orString(&cfg.QEMUImg, "qemu-img")
	orString(&cfg.Accel, AccelAuto)
	orString(&cfg.CgroupParent, "/firerunner")
	orString(&cfg.Installation, installationOf(cfg.StateDir))
	orNumber(&cfg.UIDBase, uidBaseOf(cfg.StateDir))
	orNumber(&cfg.UIDCount, defaultUIDCount)
	orNumber(&cfg.MemoryOverheadMiB, defaultOverheadMiB)
	orNumber(&cfg.CPUQuota, 1)
	orNumber(&cfg.PidsMax, defaultPidsMax)
	orNumber(&cfg.ConsoleBytes, defaultConsoleBytes)
	orNumber(&cfg.ReportBytes, defaultReportBytes)
	orNumber(&cfg.ReportCount, defaultReportCount)
	orNumber(&cfg.CreateTimeout, defaultCreateTimeout)
	orNumber(&cfg.DestroyTimeout, defaultDestroyTimeout)
	orNumber(&cfg.StopGrace, defaultStopGrace)
	orNumber(&cfg.Linger, defaultLinger)
	orNumber(&cfg.KVMProbe, defaultKVMProbe)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return cfg
}

func orString(s *string, or string) {
	if *s == "" {
		*s = or
	}
}

func orNumber[T int | int64 | float64 | time.Duration](n *T, or T) {
	if *n == 0 {
		*n = or
	}
}
