package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

func TestLoadEveryProblemAtOnce(t *testing.T) {
	t.Parallel()
	path := write(t, `gitlab:
  url: gitlab.example.com
  tokn: x
  token: glpat-secret-of-the-test
  projects: [42, "no path", group/name]
vm:
  default_vcpu: two
  default_memory_mb: [1]
  accel: kwm
scheduler: 7
deadlines:
  booting: 60
  bootin: 1m
vm: {}
unheard_of: 1
url: x
`)
	_, err := Load(Sources{
		File: path, Machine: machine(),
		Environ: []string{"FIRERUNNER_SERVER_PORT=http", "FIRERUNNER_GITLAB_TOKNE=x", "FIRERUNNER_SERVICE_PORT_HTTP=1"},
		Flags:   []string{"log.levle=debug", "log.format", "driver=qmeu"},
	})
	got := problemsOf(t, err).Error()
	require.Equal(t, strings.ReplaceAll(`FILE:2: gitlab.url: is not a web address (such as https://gitlab.example.com)
FILE:3: gitlab.tokn: unknown key (did you mean token?)
FILE:5: gitlab.projects: "no path" is neither a project's id nor its full path (such as 42 or group/name)
FILE:7: vm.default_vcpu: "two" is not a whole number
FILE:8: vm.default_memory_mb: needs a whole number
FILE:9: vm.accel: "kwm" is not one of auto, kvm, tcg (did you mean kvm?)
FILE:10: scheduler: needs keys below it, each with a colon
FILE:12: deadlines.booting: "60" is not a duration: write a number and a unit, such as 30s, 5m or 24h
FILE:13: deadlines.bootin: unknown key (did you mean booting?)
FILE:14: vm: given twice; the first is in line 6
FILE:15: unheard_of: unknown key
FILE:16: url: unknown key (did you mean gitlab.url?)
FILE: gitlab.webhook_secret: is missing, and so is gitlab.signing_token: anybody could send hooks (set one of them as in GitLab's webhook, or gitlab.allow_unauthenticated: true)
environment: FIRERUNNER_SERVER_PORT: "http" is not a whole number
environment: FIRERUNNER_GITLAB_TOKNE: unknown variable (did you mean FIRERUNNER_GITLAB_TOKEN?)
flags: log.levle: unknown key (did you mean log.level?)
flags: log.format: no value (write --set key=value)
flags: driver: "qmeu" is not one of qemu, flintlock, fake (did you mean qemu?)`, "FILE", path), got)
	require.NotContains(t, err.Error(), "secret-of-the-test")
}

func TestLoadOrder(t *testing.T) {
	t.Parallel()
	path := write(t, enough+"log: {level: warn}\nserver: {port: 1000}\nvm: {default_vcpu: 1}\n")
	c, err := Load(Sources{
		File: path, Machine: machine(),
		Environ: []string{"FIRERUNNER_LOG_LEVEL=error", "FIRERUNNER_SERVER_PORT=2000", "FIRERUNNER_SERVER_HOST="},
		Flags:   []string{"log.level=debug"},
	})
	require.NoError(t, err)
	require.Equal(t, "debug", c.Log.Level, "flags win over the environment")
	require.Equal(t, 2000, c.Server.Port, "the environment wins over the file")
	require.Equal(t, 1, c.VM.DefaultVCPU, "the file wins over the default")
	require.Equal(t, "0.0.0.0", c.Server.Host, "an empty variable is not set")
}

func TestLoadEveryKind(t *testing.T) {
	t.Parallel()
	path := write(t, enough+`
intake:
  allowed_networks: [10.1.2.3/8, 192.0.2.7, "2001:db8::/32"]
scheduler: {overcommit_cpu: 1.5, queue_size: 10_000}
deadlines: {job_timeout: 90m}
vm: {public_network: false}
image: {dir: pictures}
profiles:
  big: {tags: [big, huge], max_vcpu: 4, public_network: true}
  empty_is_reported:
`)
	c, err := Load(Sources{File: path, Machine: machine(), Environ: []string{"FIRERUNNER_INTAKE_TRUSTED_PROXIES=127.0.0.1, ::1"}})
	problems := problemsOf(t, err)
	require.Len(t, problems, 1)
	require.Equal(t, path+":14: profiles.empty_is_reported: no job can choose it: tags is missing", problems[0].String())

	require.Equal(t, []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("2001:db8::/32"),
	}, c.Intake.AllowedNetworks)
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")}, c.Intake.TrustedProxies)
	require.Equal(t, 1.5, c.Scheduler.OvercommitCPU)
	require.Equal(t, 10_000, c.Scheduler.QueueSize)
	require.Equal(t, 90*time.Minute, c.Deadlines.JobTimeout)
	require.Equal(t, filepath.Join(filepath.Dir(path), "pictures"), c.Image.Dir, "relative to the file")
	require.True(t, *c.Profiles["big"].PublicNetwork)
	require.Nil(t, c.Profiles["empty_is_reported"].PublicNetwork)
}

func TestLoadErrFile(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]struct{ text, problem string }{
		"syntax":        {"gitlab:\n  url: [\n", ":2: not YAML: did not find expected node content"},
		"two documents": {"log: {}\n---\nlog: {}\n", ": more than one YAML document; only one is read"},
		"a list":        {"- a\n", ":1: needs keys below it, each with a colon"},
		"alias":         {"log: &a {level: info}\n", ":1: log: anchors and aliases are not read (write the value out)"},
		"odd key":       {"? [a]\n: b\n", ":1: a key must be a plain word"},
		"odd item":      {"gitlab: {projects: [[1]]}\n", ":1: gitlab.projects: line 1: each item must be a plain value"},
		"no list":       {"gitlab: {projects: 1}\n", ":1: gitlab.projects: needs a list: [a, b], or one item per line after a dash"},
		"no network":    {"intake: {trusted_proxies: [localhost]}\n", `:1: intake.trusted_proxies: "localhost" is not a network: write it as 10.0.0.0/8, or a single address`},
		"no switch":     {"vm: {public_network: yes}\n", `:1: vm.public_network: "yes" is neither true nor false`},
		"no number":     {"scheduler: {overcommit_cpu: much}\n", `:1: scheduler.overcommit_cpu: "much" is not a number`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := write(t, text.text)
			_, err := Load(Sources{File: path, Machine: machine(), WithoutGitLab: true})
			problems := problemsOf(t, err)
			require.Len(t, problems, 1, "%v", problems)
			require.Equal(t, path+text.problem, problems[0].String())
		})
	}
	missing := filepath.Join(t.TempDir(), "nowhere.yaml")
	_, err := Load(Sources{File: missing, Machine: machine()})
	require.Equal(t, missing+": no such file or directory (copy config.example.yaml, or name another file with --config)",
		problemsOf(t, err).Error())
	_, err = Load(Sources{File: t.TempDir(), Machine: machine()})
	require.Contains(t, problemsOf(t, err).Error(), "not a regular file")
}

func TestLoadWithoutFile(t *testing.T) {
	t.Parallel()
	c, err := Load(Sources{Machine: machine(), WithoutGitLab: true})
	require.NoError(t, err)
	require.Equal(t, 4, c.Scheduler.Slots)
	_, err = Load(Sources{Machine: machine()})
	require.Len(t, problemsOf(t, err), 3, "url, token and secret")
}

func TestSecretFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		require.NoError(t, os.Chmod(path, mode))
		return path
	}
	good := secret("good", "glpat-from-a-file\n", 0o600)
	group := secret("group", "hush-from-a-file", 0o640)
	file := func(more string) string {
		path := filepath.Join(t.TempDir(), "config.yaml")
		require.NoError(t, os.WriteFile(path, []byte("gitlab:\n  url: https://gitlab.example.com\n"+more), 0o644))
		return path
	}

	c, err := Load(Sources{File: file("  token_file: " + good + "\n  webhook_secret_file: " + group + "\n"), Machine: machine()})
	require.NoError(t, err)
	require.Equal(t, "glpat-from-a-file", c.GitLab.Token.Reveal())
	require.Equal(t, "hush-from-a-file", c.GitLab.WebhookSecret.Reveal())

	// A later source replaces the secret of an earlier one, whichever of the two forms it has.
	c, err = Load(Sources{
		File: file("  token_file: " + good + "\n  webhook_secret_file: " + group + "\n"), Machine: machine(),
		Environ: []string{"FIRERUNNER_GITLAB_TOKEN=glpat-from-the-environment"},
	})
	require.NoError(t, err)
	require.Equal(t, "glpat-from-the-environment", c.GitLab.Token.Reveal())
	c, err = Load(Sources{File: write(t, enough), Machine: machine(), Environ: []string{"FIRERUNNER_GITLAB_TOKEN_FILE=" + good}})
	require.NoError(t, err)
	require.Equal(t, "glpat-from-a-file", c.GitLab.Token.Reveal())

	for name, wrong := range map[string]struct{ keys, problem string }{
		"both":       {"  token: a\n  token_file: " + good + "\n", "gitlab.token and gitlab.token_file are both given (remove one of them)"},
		"readable":   {"  token_file: " + secret("world", "x", 0o644) + "\n", "reading a secret from " + dir + "/world: others may touch it: its mode is 0644 (chmod 600 " + dir + "/world)"},
		"writable":   {"  token_file: " + secret("groupw", "x", 0o660) + "\n", "its mode is 0660"},
		"empty":      {"  token_file: " + secret("empty", "\n", 0o600) + "\n", "it is empty"},
		"large":      {"  token_file: " + secret("large", strings.Repeat("x", secretLimit+1), 0o600) + "\n", "larger than 64 KiB"},
		"missing":    {"  token_file: nowhere\n", "no such file or directory"},
		"folder":     {"  token_file: .\n", "not a regular file"},
		"two lines":  {"  token_file: " + secret("two", "a\nb\n", 0o600) + "\n", "gitlab.token: holds a space or a line break"},
		"inline":     {"  token: glpat-inline\n", "every user of the machine can read this secret: the file's mode is 0644 (chmod 600 "},
		"not a word": {"  token: {a: b}\n", "gitlab.token: needs a text"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Load(Sources{File: file("  webhook_secret_file: " + group + "\n" + wrong.keys), Machine: machine()})
			require.Contains(t, problemsOf(t, err).Error(), wrong.problem)
			require.NotContains(t, err.Error(), "glpat-")
		})
	}
}

func TestErrSecretOnCommandLine(t *testing.T) {
	t.Parallel()
	_, err := Load(Sources{File: write(t, enough), Machine: machine(), Flags: []string{"gitlab.token=glpat-on-the-command-line"}})
	require.Contains(t, problemsOf(t, err).Error(), "can be read by every user of the machine (use FIRERUNNER_GITLAB_TOKEN or gitlab.token_file)")
	require.NotContains(t, err.Error(), "glpat-")
}

func TestSettings(t *testing.T) {
	t.Parallel()
	path := write(t, enough)
	c, err := Load(Sources{File: path, Machine: machine(), Environ: []string{"FIRERUNNER_LOG_LEVEL=debug"}, Flags: []string{"driver=fake"}})
	require.NoError(t, err)
	got := map[string]Setting{}
	for _, s := range c.Settings() {
		got[s.Key] = s
	}
	require.Equal(t, Setting{"gitlab.token", "[redacted]", path + ":3"}, got["gitlab.token"])
	require.Equal(t, Setting{"log.level", "debug", "environment"}, got["log.level"])
	require.Equal(t, Setting{"driver", "fake", "flags"}, got["driver"])
	require.Equal(t, Setting{"state_dir", "/var/lib/firerunner", "machine"}, got["state_dir"])
	require.Equal(t, Setting{"server.port", "8080", "default"}, got["server.port"])
	require.Len(t, got, len(Keys()))
}

func TestMachine(t *testing.T) {
	t.Parallel()
	m := ThisMachine([]string{"HOME=/home/u"})
	require.Positive(t, m.VCPUs)
	require.Positive(t, m.MemoryMiB)
	require.Equal(t, "/home/u/.local/state", m.StateHome)
	require.Equal(t, "/s", ThisMachine([]string{"HOME=/home/u", "XDG_STATE_HOME=/s"}).StateHome)

	c := Default()
	c.Complete(Machine{StateHome: "/home/u/.local/state"})
	require.Equal(t, "/home/u/.local/state/firerunner", c.StateDir)
	require.Equal(t, "localhost", c.Scheduler.HostName)

	// The defaults are right on the smallest machine.
	small := Machine{Root: true, VCPUs: 1, MemoryMiB: 2048}
	c = Default()
	c.Complete(small)
	require.Empty(t, c.check(false))
	require.Equal(t, firerunner.Size{VCPUs: 1, MemoryMiB: 1536, DiskMiB: 10240}, c.ProfileList()[0].Default)
	// What was given is refused, not changed.
	_, err := Load(Sources{File: write(t, enough+"vm: {default_vcpu: 3}\n"), Machine: small})
	require.Contains(t, problemsOf(t, err).Error(), "vm.default_vcpu: the default size, 3 vCPU, is not between the smallest, 1, and the largest, 1")
}
