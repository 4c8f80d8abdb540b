package config

import (
	"reflect"
	"slices"
	"strings"
)

// live returns the keys that a running daemon puts into force when the configuration is read again; those below a name
// that ends in a dot are meant all together.
func live() []string {
	return []string{
		"gitlab.token", "gitlab.token_file", "gitlab.webhook_secret", "gitlab.webhook_secret_file", "gitlab.signing_token",
		"gitlab.signing_token_file", "gitlab.allow_unauthenticated", "gitlab.projects",
		"server.public_url", "intake.", "deadlines.", "sweep.interval", "sweep.project_window", "hosts", "profiles",
		"flintlock.endpoint", "flintlock.token", "flintlock.token_file", "flintlock.tls.", "flintlock.bridge", "flintlock.state_dir",
		"flintlock.kernel_image", "flintlock.kernel_file", "flintlock.initrd_image", "flintlock.initrd_file", "flintlock.rootfs_image",
		"flintlock.lost_after",
		"vm.default_vcpu", "vm.default_memory_mb", "vm.default_disk_mb", "vm.min_vcpu", "vm.min_memory_mb", "vm.max_vcpu",
		"vm.max_memory_mb", "vm.image", "vm.public_network", "vm.kernel_image", "vm.initrd_image", "vm.rootfs_image", "vm.job_log_kib",
		"scheduler.worker_count", "scheduler.queue_size", "scheduler.vcpus", "scheduler.memory_mb", "scheduler.overcommit_cpu",
		"scheduler.hold_after",
		"image.suite", "image.mirrors", "image.packages", "image.sudo", // for commands alone
		"log.level", "shutdown_grace",
	}
}

// atStart returns the keys that are read when a daemon starts: where it listens, what it is, what others were told of it.
func atStart() []string {
	return []string{
		"server.host", "server.port", "server.metrics_host", "server.metrics_port", "server.read_header_timeout", "server.read_timeout",
		"server.write_timeout", "server.idle_timeout",
		"gitlab.url", "gitlab.guest_url", "gitlab.ca_file", "gitlab.request_timeout", "guest.",
		"flintlock.probe_interval", "flintlock.probe_timeout",
		"vm.accel", "vm.qemu", "vm.uid_base", "vm.console_kib", "scheduler.min_free_disk_mb", "scheduler.host_name", "image.dir", "log.format",
		"sweep.requests_per_minute", "sweep.active_window", "sweep.idle_interval", "sweep.discover", "sweep.discover_interval",
		"sweep.webhook_interval", "scheduler.give_up_after", "scheduler.give_up_for", "controller.",
		"driver", "state_dir", "database", "database_file", "database_password", "database_password_file", "watch_config",
	}
}

func among(key string, names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		return name == key || strings.HasSuffix(name, ".") && strings.HasPrefix(key, name)
	})
}

// changeable is every key whose values can differ: the leaves, and the two that have no leaves of their own.
func changeable() []leaf {
	all := leaves()
	for _, f := range fieldsOf(reflect.TypeFor[Config]()) {
		if f.name == "hosts" || f.name == "profiles" {
			all = append(all, leaf{key: f.name, index: []int{f.index}, kind: f.kind})
		}
	}
	return all
}

// Changes returns the keys in which fresh differs: those that come into force at once, and those that do at the next start.
func (c *Config) Changes(fresh *Config) (now, later []string) {
	a, b := reflect.ValueOf(c).Elem(), reflect.ValueOf(fresh).Elem()
	for _, l := range changeable() {
		switch {
		case same(a.FieldByIndex(l.index), b.FieldByIndex(l.index)):
		case among(l.key, live()):
			now = append(now, l.key)
		default:
			later = append(later, l.key)
		}
	}
	return now, later
}

// same takes an empty list for none.
func same(a, b reflect.Value) bool {
	if k := a.Kind(); (k == reflect.Slice || k == reflect.Map) && a.Len() == 0 && b.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

// With returns c with everything of fresh that comes into force at once. That the two fit together is for the caller to
// check: see Validate.
func (c *Config) With(fresh *Config) *Config {
	next := *c
	next.origins = fresh.origins
	to, from := reflect.ValueOf(&next).Elem(), reflect.ValueOf(fresh).Elem()
	for _, l := range changeable() {
		if among(l.key, live()) {
			to.FieldByIndex(l.index).Set(from.FieldByIndex(l.index))
		}
	}
	return &next
}

// Files returns the files of secrets that the configuration names: what it says changes with them.
func (c *Config) Files() []string {
	l := loader{config: *c}
	var files []string
	for _, s := range l.secrets() {
		if s.file != "" {
			files = append(files, s.file)
		}
	}
	if c.DatabaseFile != "" {
		files = append(files, c.DatabaseFile)
	}
	return files
}
