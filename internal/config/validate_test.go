package config

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// valid is a configuration without a problem.
func valid() Config {
	c := Default()
	c.GitLab.URL = "https://gitlab.example.com"
	c.GitLab.Token = "glpat-x"
	c.GitLab.WebhookSecret = "hush"
	c.Complete(machine())
	return c
}

func TestValidateOK(t *testing.T) {
	t.Parallel()
	c := valid()
	require.NoError(t, c.Validate())
	c.GitLab.WebhookSecret, c.GitLab.AllowUnauthenticated = "", true
	require.NoError(t, c.Validate())
	c.GitLab.AllowUnauthenticated = false
	c.GitLab.SigningToken = "whsec_dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHRlc3Q="
	require.NoError(t, c.Validate())
	c.VM.KernelImage, c.VM.RootFSImage, c.VM.InitrdImage = "/k", "/r", "/i"
	require.NoError(t, c.Validate())
}

func TestValidateSaysItOnce(t *testing.T) {
	t.Parallel()
	c := valid()
	c.VM.DefaultVCPU = 3
	c.VM.MaxVCPU = 2
	c.Profiles = map[string]Profile{"a": {Tags: []string{"a"}}, "b": {Tags: []string{"b"}}}
	require.EqualError(t, c.Validate(), "the configuration is wrong:\nvm.default_vcpu: the default size, 3 vCPU, is not between the smallest, 1, and the largest, 2")
}

func TestValidateErr(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]struct {
		change  func(*Config)
		problem string
	}{
		"silence":         {func(c *Config) { c.Guest.SilentAfter = time.Second }, "guest.silent_after: 1s is not between 4s and 1h"},
		"port":            {func(c *Config) { c.Server.Port = 65536 }, "server.port: 65536 is not a port"},
		"one port":        {func(c *Config) { c.Server.MetricsPort = 8080 }, "server.metrics_port: is the same as server.port"},
		"host":            {func(c *Config) { c.Server.Host = "example.com" }, `server.host: "example.com" is not an address`},
		"no url":          {func(c *Config) { c.GitLab.URL = "" }, "gitlab.url: is missing"},
		"url's password":  {func(c *Config) { c.GitLab.URL = "https://u:p@gitlab.example.com" }, "gitlab.url: holds a user or password"},
		"url's query":     {func(c *Config) { c.GitLab.URL = "https://gitlab.example.com/?a=b" }, "gitlab.url: must end with a path"},
		"url's scheme":    {func(c *Config) { c.GitLab.GuestURL = "ssh://gitlab.example.com" }, "gitlab.guest_url: is not a web address"},
		"url's control":   {func(c *Config) { c.Server.PublicURL = "https://\x7f" }, "server.public_url: is not a web address"},
		"token":           {func(c *Config) { c.GitLab.Token = "a b" }, "gitlab.token: holds a space"},
		"signing token":   {func(c *Config) { c.GitLab.SigningToken = "hush" }, "gitlab.signing_token: is not a signing token"},
		"signing short":   {func(c *Config) { c.GitLab.SigningToken = "whsec_YQ==" }, "gitlab.signing_token: is not a signing token"},
		"secret and open": {func(c *Config) { c.GitLab.AllowUnauthenticated = true }, "which one is meant?"},
		"project":         {func(c *Config) { c.GitLab.Projects = []string{"a/../b"} }, "gitlab.projects"},
		"project zero":    {func(c *Config) { c.GitLab.Projects = []string{"0"} }, "gitlab.projects"},
		"body":            {func(c *Config) { c.Intake.BodyLimitKiB = 0 }, "intake.body_limit_kib: 0 is not between 16 and 25600"},
		"flintlock":       {func(c *Config) { c.Flintlock.Endpoint = "h:9090" }, "flintlock.endpoint: is for driver flintlock, and driver is qemu (driver: flintlock)"},
		"driver":          {func(c *Config) { c.Driver = "xen" }, `driver: "xen" is not one of qemu, flintlock, fake`},
		"image":           {func(c *Config) { c.VM.Image = "../x" }, "vm.image"},
		"qemu":            {func(c *Config) { c.VM.QEMU = "./qemu" }, "vm.qemu"},
		"kernel alone":    {func(c *Config) { c.VM.KernelImage = "/k" }, "kernel_image and rootfs_image go together"},
		"rootfs alone":    {func(c *Config) { c.VM.RootFSImage = "/r" }, "vm.kernel_image: is missing"},
		"initrd alone":    {func(c *Config) { c.VM.InitrdImage = "/i" }, "vm.initrd_image: is given without vm.kernel_image"},
		"root's uid":      {func(c *Config) { c.VM.UIDBase = 0 }, "vm.uid_base: 0 is not between"},
		"NaN":             {func(c *Config) { c.Scheduler.OvercommitCPU = math.NaN() }, "scheduler.overcommit_cpu: NaN is not between 1 and 100"},
		"host name":       {func(c *Config) { c.Scheduler.HostName = "a b" }, "scheduler.host_name"},
		"slots":           {func(c *Config) { c.Scheduler.Slots = -1 }, "scheduler.worker_count: -1 is not between"},
		"deadline":        {func(c *Config) { c.Deadlines.Booting = -time.Second }, "deadlines.booting: -1s is not between 1s and 24h0m0s"},
		"no deadlines":    {func(c *Config) { c.Deadlines = firerunner.Deadlines{} }, "deadlines.stopping: 0s is not between"},
		"postgres":        {func(c *Config) { c.Database = "postgres://u@/d" }, "database: names no server"},
		"postgres name":   {func(c *Config) { c.Database = "postgres://u@h" }, "database: names no database"},
		"postgres user":   {func(c *Config) { c.Database = "postgres://h/d" }, "database: names no user"},
		"file's password": {func(c *Config) { c.DatabasePassword = "p" }, "database_password: is given, but the database is a file"},
		"another scheme":  {func(c *Config) { c.Database = "mysql://u:secret@h/d" }, "database: \"...@h/d\" is not a database"},
		"database":        {func(c *Config) { c.Database = "sqlite://relative.db" }, "database: \"sqlite://relative.db\" is not a database"},
		"limits":          {func(c *Config) { c.VM.MinVCPU = 8; c.VM.DefaultVCPU = 8 }, "vm.max_vcpu: the smallest size, 8 vCPU, is beyond the largest, 4"},
		"too much":        {func(c *Config) { c.VM.MaxMemoryMiB = 1 << 20 }, "vm.max_memory_mb: 1048576 MiB of memory is more than this machine gives, 14336 (scheduler.memory_mb): such a job would wait forever"},
		"profile's name":  {func(c *Config) { c.Profiles = map[string]Profile{"A B": {Tags: []string{"x"}}} }, "is not a profile's name"},
		"profile's tags":  {func(c *Config) { c.Profiles = map[string]Profile{"a": {}} }, "profiles.a: no job can choose it"},
		"profile's image": {func(c *Config) { c.Profiles = map[string]Profile{"a": {Tags: []string{"x"}, Image: "/"}} }, "profiles.a.image"},
		"size as a tag": {
			func(c *Config) { c.Profiles = map[string]Profile{"a": {Tags: []string{"firecracker-2cpu-4gb"}}} },
			"is a size, which chooses no profile",
		},
		"odd tag": {func(c *Config) { c.Profiles = map[string]Profile{"a": {Tags: []string{"x,y"}}} }, "is not a tag that GitLab allows"},
		"shared tag": {func(c *Config) {
			c.Profiles = map[string]Profile{"a": {Tags: []string{"x"}}, "b": {Tags: []string{"x"}}}
		}, `tag "x" belongs to profile a already`},
		"own default": {func(c *Config) { c.Profiles = map[string]Profile{"a": {Tags: []string{"x"}, DefaultVCPU: 5}} }, "the default size, 5 vCPU"},
		"own memory":  {func(c *Config) { c.Profiles = map[string]Profile{"a": {Tags: []string{"x"}, MaxMemoryMiB: 1}} }, "profiles.a.max_memory_mb: 1 is not between"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := valid()
			wrong.change(&c)
			require.Contains(t, problemsOf(t, c.Validate()).Error(), wrong.problem)
		})
	}
}

func TestProfileList(t *testing.T) {
	t.Parallel()
	c := valid()
	off := false
	c.Profiles = map[string]Profile{
		"small":   {Tags: []string{"small"}, MaxVCPU: 1, MaxMemoryMiB: 1024, PublicNetwork: &off},
		"big":     {Tags: []string{"big"}, Image: "heavy", DefaultVCPU: 4, DefaultMemoryMiB: 8192, DefaultDiskMiB: 20480},
		"default": {Tags: []string{"vm"}},
	}
	require.NoError(t, c.Validate())
	list := c.ProfileList()
	limits := func(disk, cpus, memory int) firerunner.SizeLimits {
		return firerunner.SizeLimits{
			Min: firerunner.Size{VCPUs: 1, MemoryMiB: 512, DiskMiB: disk},
			Max: firerunner.Size{VCPUs: cpus, MemoryMiB: memory, DiskMiB: disk},
		}
	}
	require.Equal(t, []firerunner.Profile{
		{
			Name: "default", Tags: []string{"vm"}, Image: "default", Public: true,
			Default: firerunner.Size{VCPUs: 2, MemoryMiB: 2048, DiskMiB: 10240}, Limits: limits(10240, 4, 14336),
		},
		{
			Name: "big", Tags: []string{"big"}, Image: "heavy", Public: true,
			Default: firerunner.Size{VCPUs: 4, MemoryMiB: 8192, DiskMiB: 20480}, Limits: limits(20480, 4, 14336),
		},
		{
			Name: "small", Tags: []string{"small"}, Image: "default",
			Default: firerunner.Size{VCPUs: 1, MemoryMiB: 1024, DiskMiB: 10240}, Limits: limits(10240, 1, 1024),
		},
	}, list)
}

func TestNearest(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{
		"tokn": "token", "tokne": "token", "Token": "token", "url_": "url", "completely_else": "", "port": "server.port", "": "",
	} {
		require.Equal(t, want, nearest(word, []string{"url", "token", "server.port"}), word)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(enough, "FIRERUNNER_LOG_LEVEL=debug", "driver=fake")
	f.Add("vm: &a {default_vcpu: 1}\nprofiles: {x: *a}\n", "FIRERUNNER_DEADLINES_BOOTING=1h", "vm.max_vcpu=1")
	f.Add("profiles:\n  a: {tags: [x], public_network: false}\n", "FIRERUNNER_", "=")
	f.Add("a: [b: {c: !!binary x}]\n---\n", "FIRERUNNER_GITLAB_PROJECTS=1,2", "intake.allowed_networks=::/0")
	f.Fuzz(func(t *testing.T, text, variable, flag string) {
		l := loader{config: Default()}
		l.config.origins = map[string]origin{}
		l.document("config.yaml", []byte(text))
		l.environ([]string{variable})
		l.flags([]string{flag})
		l.config.Complete(machine())
		l.check(true)
		l.config.Settings()
		l.config.ProfileList()
		if err := l.problems.err(); err == nil {
			// What was accepted can be relied on.
			for _, p := range l.config.ProfileList() {
				require.NoError(t, p.Limits.Check(p.Default))
			}
			require.Positive(t, l.config.Host().Slots)
		}
	})
}
