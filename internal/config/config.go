// Package config reads FireRunner's configuration: one YAML file, the environment over it, and flags over both.
//
// Every key stands in config.example.yaml with its default and what it is for; a test keeps that file and Default
// the same. An unknown key, a value of the wrong type, a secret that others can read: all of it is reported at
// once, each with its line.
package config

import (
	"net/netip"
	"time"

	"github.com/firerunner/firerunner"
)

// Config is the whole configuration. Zero stands for "by this machine" where the comment says so; Complete fills
// it in.
type Config struct {
	Server     Server               `yaml:"server"`
	GitLab     GitLab               `yaml:"gitlab"`
	Intake     Intake               `yaml:"intake"`
	Flintlock  Flintlock            `yaml:"flintlock"`
	Hosts      []Host               `yaml:"hosts"`
	Guest      Guest                `yaml:"guest"`
	VM         VM                   `yaml:"vm"`
	Profiles   map[string]Profile   `yaml:"profiles"`
	Scheduler  Scheduler            `yaml:"scheduler"`
	Controller Controller           `yaml:"controller"`
	Deadlines  firerunner.Deadlines `yaml:"deadlines"`
	Sweep      Sweep                `yaml:"sweep"`
	Image      Image                `yaml:"image"`
	Log        Log                  `yaml:"log"`

	// Driver makes the microVMs: qemu on this machine, flintlock on hosts that run flintlockd, or fake (for load tests: it
	// boots nothing).
	Driver string `yaml:"driver"`
	// StateDir holds all that outlives the process. Empty: /var/lib/firerunner for root, $XDG_STATE_HOME/firerunner
	// for everybody else.
	StateDir string `yaml:"state_dir" path:"yes"`
	// Database is a URL: sqlite:///absolute/path, or postgres://user@host:5432/name, from which Load takes the password. Empty:
	// firerunner.db in StateDir.
	Database string `yaml:"database"`
	// DatabaseFile is a file that holds the URL, with its password.
	DatabaseFile string `yaml:"database_file" path:"yes"`
	// DatabasePassword is the password of PostgreSQL's user, where it is not in the URL.
	DatabasePassword     firerunner.Secret `yaml:"database_password"`
	DatabasePasswordFile string            `yaml:"database_password_file" path:"yes"`
	// ShutdownGrace is how long running jobs may go on after SIGTERM.
	ShutdownGrace time.Duration `yaml:"shutdown_grace"`
	// WatchConfig has a daemon read the configuration again when its file, or that of a secret, changes.
	WatchConfig bool `yaml:"watch_config"`

	origins map[string]origin // where each key that was given came from, for the problems
}

// Server is where FireRunner listens.
type Server struct {
	Host        string `yaml:"host"` // for webhooks
	Port        int    `yaml:"port"`
	MetricsHost string `yaml:"metrics_host"` // for /metrics; loopback by default, it needs no password
	MetricsPort int    `yaml:"metrics_port"`
	// PublicURL is FireRunner's address as GitLab sees it, such as https://firerunner.example.com; doctor looks for
	// a hook that goes there. Empty: unknown.
	PublicURL         string        `yaml:"public_url"`
	ReadHeaderTimeout time.Duration `yaml:"read_header_timeout"`
	ReadTimeout       time.Duration `yaml:"read_timeout"`
	WriteTimeout      time.Duration `yaml:"write_timeout"`
	IdleTimeout       time.Duration `yaml:"idle_timeout"`
}

// GitLab is the way to GitLab, and what GitLab's webhooks prove themselves with.
type GitLab struct {
	URL string `yaml:"url"` // such as https://gitlab.example.com
	// GuestURL is GitLab's URL as guests say it. Empty: URL.
	GuestURL  string            `yaml:"guest_url"`
	Token     firerunner.Secret `yaml:"token"` // scopes create_runner and manage_runner and read_api, or api
	TokenFile string            `yaml:"token_file" path:"yes"`
	// WebhookSecret is compared with X-Gitlab-Token.
	WebhookSecret     firerunner.Secret `yaml:"webhook_secret"`
	WebhookSecretFile string            `yaml:"webhook_secret_file" path:"yes"`
	// SigningToken verifies webhook-signature (GitLab 19.0, whsec_...). Where it is set, every hook must be signed.
	SigningToken     firerunner.Secret `yaml:"signing_token"`
	SigningTokenFile string            `yaml:"signing_token_file" path:"yes"`
	// AllowUnauthenticated permits hooks without any proof.
	AllowUnauthenticated bool `yaml:"allow_unauthenticated"`
	// CAFile is a PEM file with the authorities of GitLab's certificate, for FireRunner and its guests.
	CAFile         string        `yaml:"ca_file" path:"yes"`
	RequestTimeout time.Duration `yaml:"request_timeout"`
	// Projects are swept even before a hook has shown them: ids or full paths.
	Projects []string `yaml:"projects"`
}

// Intake is what the webhook endpoint accepts.
type Intake struct {
	AllowedNetworks     []netip.Prefix `yaml:"allowed_networks"` // hooks come from these; empty: from anywhere
	TrustedProxies      []netip.Prefix `yaml:"trusted_proxies"`  // X-Forwarded-For is believed from these only
	BodyLimitKiB        int            `yaml:"body_limit_kib"`
	FailuresPerMinute   int            `yaml:"failures_per_minute"`   // per source, of requests that prove nothing; then 429
	DeliveriesPerSecond int            `yaml:"deliveries_per_second"` // of authenticated hooks; beyond, the sweep sees the job
}

// VM is what microVMs are made of, and the limits of the default profile.
type VM struct {
	DefaultVCPU      int `yaml:"default_vcpu"` // for jobs that do not ask for a size
	DefaultMemoryMiB int `yaml:"default_memory_mb"`
	DefaultDiskMiB   int `yaml:"default_disk_mb"` // most that a job may write
	MinVCPU          int `yaml:"min_vcpu"`
	MinMemoryMiB     int `yaml:"min_memory_mb"`
	MaxVCPU          int `yaml:"max_vcpu"`      // 0: the machine's
	MaxMemoryMiB     int `yaml:"max_memory_mb"` // 0: scheduler.memory_mb

	Image         string `yaml:"image"`          // name of an image that "firerunner image build" made
	PublicNetwork bool   `yaml:"public_network"` // guests may reach public addresses

	// KernelImage, InitrdImage and RootFSImage are files to boot instead of an image.
	KernelImage string `yaml:"kernel_image" path:"yes"`
	InitrdImage string `yaml:"initrd_image" path:"yes"`
	RootFSImage string `yaml:"rootfs_image" path:"yes"`

	Accel      string `yaml:"accel"`       // auto (a boot probe decides), kvm or tcg
	QEMU       string `yaml:"qemu"`        // a name to look up in PATH, or an absolute path
	UIDBase    int    `yaml:"uid_base"`    // run as root, each VM is a user from here on
	ConsoleKiB int    `yaml:"console_kib"` // most that is kept of a guest's console
	JobLogKiB  int    `yaml:"job_log_kib"` // most that a job's log in GitLab may hold
}

// Profile is named defaults that jobs choose by one of its tags. What it leaves out is as in VM.
type Profile struct {
	Tags             []string `yaml:"tags"`
	Image            string   `yaml:"image"`
	DefaultVCPU      int      `yaml:"default_vcpu"`
	DefaultMemoryMiB int      `yaml:"default_memory_mb"`
	DefaultDiskMiB   int      `yaml:"default_disk_mb"`
	MinVCPU          int      `yaml:"min_vcpu"`
	MinMemoryMiB     int      `yaml:"min_memory_mb"`
	MaxVCPU          int      `yaml:"max_vcpu"`
	MaxMemoryMiB     int      `yaml:"max_memory_mb"`
	PublicNetwork    *bool    `yaml:"public_network"`
	Hosts            []string `yaml:"hosts"` // labels that a host must have, all of them

	// Provision is who brings gitlab-runner into the microVM: agent (the image's own, also where it is empty) or ssh.
	Provision string `yaml:"provision"`
	SSH       SSH    `yaml:"ssh"`
}

// Scheduler is how much of this machine microVMs may have.
type Scheduler struct {
	Slots         int           `yaml:"worker_count"` // most microVMs at once; 0: the machine's vCPUs
	QueueSize     int           `yaml:"queue_size"`   // most runners that wait for room
	VCPUs         int           `yaml:"vcpus"`        // 0: the machine's
	MemoryMiB     int           `yaml:"memory_mb"`    // 0: the machine's, less an eighth and at least 512 for itself
	OvercommitCPU float64       `yaml:"overcommit_cpu"`
	HoldAfter     time.Duration `yaml:"hold_after"` // a runner that waits longer has a host kept free for it
	// GiveUpAfter is how many times in a row an image may fail on a host, before a job started, until it is given up there
	// for GiveUpFor.
	GiveUpAfter int           `yaml:"give_up_after"`
	GiveUpFor   time.Duration `yaml:"give_up_for"`
	// MinFreeDiskMiB is the room in StateDir below which this machine takes no new work. 0: it is not looked at.
	MinFreeDiskMiB int    `yaml:"min_free_disk_mb"`
	HostName       string `yaml:"host_name"` // this machine's name in rows and metrics; empty: its host name
}

// Controller is this process among the others that serve the same PostgreSQL.
type Controller struct {
	Name string `yaml:"name"` // unlike the others'; empty will do for one of them
	// LeaseTime is how long the others wait for a sign of life before they take this one for dead.
	LeaseTime time.Duration `yaml:"lease_time"`
}

// Sweep is the periodic look at pending jobs, which finds what hooks missed.
type Sweep struct {
	Interval      time.Duration `yaml:"interval"`       // for active projects
	ProjectWindow time.Duration `yaml:"project_window"` // projects are swept this long after they last showed a job
	// RequestsPerMinute is how many requests to GitLab may be made that are not for a job or runner that somebody waits for;
	// GitLab's own limits make it less.
	RequestsPerMinute int           `yaml:"requests_per_minute"`
	ActiveWindow      time.Duration `yaml:"active_window"` // a project that showed a job within it is active
	IdleInterval      time.Duration `yaml:"idle_interval"` // for those that are not
	Discover          bool          `yaml:"discover"`      // sweep all projects of which the token's user is a maintainer
	DiscoverInterval  time.Duration `yaml:"discover_interval"`
	WebhookInterval   time.Duration `yaml:"webhook_interval"` // how often the webhooks of active projects are looked at
}

// Image is where images are kept and what "firerunner image build" puts into them.
type Image struct {
	Dir      string   `yaml:"dir" path:"yes"` // empty: images in StateDir
	Suite    string   `yaml:"suite"`          // the Debian release
	Mirrors  []string `yaml:"mirrors"`        // lines in the form of sources.list; empty: the machine's own
	Packages []string `yaml:"packages"`       // Debian packages besides those that a runner needs
	Sudo     bool     `yaml:"sudo"`           // jobs may become root inside their microVM
}

// Log is what is logged and how.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn or error
	Format string `yaml:"format"` // text or json
}
