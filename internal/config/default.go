package config

import (
	"time"

	"github.com/firerunner/firerunner"
)

// Default returns the configuration of an empty file, before Complete.
func Default() Config {
	return Config{
		Server: Server{
			Host: "0.0.0.0", Port: 8080,
			MetricsHost: "127.0.0.1", MetricsPort: 9090,
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       10 * time.Second,
			WriteTimeout:      10 * time.Second,
			IdleTimeout:       2 * time.Minute,
		},
		GitLab: GitLab{RequestTimeout: 15 * time.Second},
		Intake: Intake{BodyLimitKiB: 1024, FailuresPerMinute: 100, DeliveriesPerSecond: 500},
		VM: VM{
			DefaultVCPU: 2, DefaultMemoryMiB: 2048, DefaultDiskMiB: 10240,
			MinVCPU: 1, MinMemoryMiB: 512,
			Image: "default", PublicNetwork: true,
			Accel: "auto", QEMU: "qemu-system-x86_64",
			// Between what systemd gives to containers and 2^31: nobody else's by convention
			// (https://systemd.io/UIDS-GIDS/).
			UIDBase:    1_900_000_000,
			ConsoleKiB: 1024, JobLogKiB: 4096,
		},
		Controller: Controller{LeaseTime: 5 * time.Second},
		Flintlock:  Flintlock{ProbeInterval: 10 * time.Second, ProbeTimeout: 5 * time.Second, LostAfter: time.Minute},
		Guest:      Guest{Host: "0.0.0.0", Port: 8443, SilentAfter: 2 * time.Minute},
		Scheduler:  Scheduler{QueueSize: 1000, OvercommitCPU: 2, HoldAfter: 5 * time.Minute, GiveUpAfter: 6, GiveUpFor: 15 * time.Minute, MinFreeDiskMiB: 1024},
		Deadlines:  firerunner.DefaultDeadlines(),
		Sweep: Sweep{
			Interval: time.Minute, ProjectWindow: 7 * 24 * time.Hour, RequestsPerMinute: 300, ActiveWindow: time.Hour,
			IdleInterval: 10 * time.Minute, Discover: true, DiscoverInterval: 10 * time.Minute, WebhookInterval: 10 * time.Minute,
		},
		Image:         Image{Suite: "bookworm"},
		Log:           Log{Level: "info", Format: "text"},
		Driver:        "qemu",
		ShutdownGrace: 5 * time.Minute,
		WatchConfig:   true,
	}
}
