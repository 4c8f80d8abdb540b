package config

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

const publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f image"

// plain is a configuration whose profile "plain" is provisioned over SSH.
func plain(change func(*Profile)) Config {
	c := valid()
	p := Profile{Tags: []string{"plain"}, Provision: "ssh", SSH: SSH{GitLabRunner: "/usr/bin/gitlab-runner", GitLabRunnerSHA256: strings.Repeat("a", 64)}}
	if change != nil {
		change(&p)
	}
	c.Profiles = map[string]Profile{"plain": p}
	return c
}

func TestSSHOK(t *testing.T) {
	t.Parallel()
	c := plain(nil)
	require.NoError(t, c.Validate())
	list := c.ProfileList()
	require.Empty(t, list[0].Provision)
	require.Zero(t, list[0].SSH)
	require.Equal(t, firerunner.ProvisionSSH, list[1].Provision)
	require.Equal(t, firerunner.SSHAccess{
		User: "root", Port: 22, RunnerPath: "/usr/bin/gitlab-runner", RunnerSHA256: strings.Repeat("a", 64),
		ConnectTimeout: 3 * time.Minute, StepTimeout: 30 * time.Second, UploadTimeout: 5 * time.Minute,
	}, list[1].SSH)

	c = plain(func(p *Profile) {
		p.SSH = SSH{
			User: "debian", Port: 2222, HostKeys: []string{publicKey}, GitLabRunnerURL: "https://example.com/gitlab-runner",
			GitLabRunnerSHA256: strings.Repeat("b", 64), ConnectTimeout: time.Minute,
		}
	})
	require.NoError(t, c.Validate())
	require.Equal(t, "debian", c.ProfileList()[1].SSH.User)
	require.Equal(t, []string{publicKey}, c.ProfileList()[1].SSH.HostKeys)
}

func TestSSHErr(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]struct {
		change  func(*Profile)
		problem string
	}{
		"way":          {func(p *Profile) { p.Provision = "shh" }, `profiles.plain.provision: "shh" is not one of agent, ssh (did you mean ssh?)`},
		"not said":     {func(p *Profile) { p.Provision = "" }, "the profile does not say provision: ssh"},
		"user":         {func(p *Profile) { p.SSH.User = "root; reboot" }, "is not a user's name"},
		"port":         {func(p *Profile) { p.SSH.Port = 70000 }, "profiles.plain.ssh.port: 70000 is not between 1 and 65535"},
		"host key":     {func(p *Profile) { p.SSH.HostKeys = []string{"SHA256:abc"} }, "is not a public key"},
		"mixed key":    {func(p *Profile) { p.SSH.HostKeys = []string{strings.Replace(publicKey, "ssh-ed25519", "ssh-rsa", 1)} }, "is not a public key"},
		"no runner":    {func(p *Profile) { p.SSH.GitLabRunner = "" }, "gitlab_runner is missing"},
		"two runners":  {func(p *Profile) { p.SSH.GitLabRunnerURL = "https://example.com/x" }, "which one is meant?"},
		"no sum":       {func(p *Profile) { p.SSH.GitLabRunnerSHA256 = "" }, "gitlab_runner_sha256 is missing"},
		"odd sum":      {func(p *Profile) { p.SSH.GitLabRunnerSHA256 = "abc" }, "is not 64 hexadecimal digits"},
		"address":      {func(p *Profile) { p.SSH.GitLabRunner, p.SSH.GitLabRunnerURL = "", "ftp://example.com" }, "is not a web address"},
		"with a login": {func(p *Profile) { p.SSH.GitLabRunner, p.SSH.GitLabRunnerURL = "", "https://u:p@example.com/x" }, "is not a web address"},
		"timeout":      {func(p *Profile) { p.SSH.StepTimeout = time.Millisecond }, "step_timeout: 1ms is not between"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := plain(wrong.change)
			require.ErrorContains(t, c.Validate(), wrong.problem)
		})
	}
	c := plain(nil)
	c.Driver = "fake"
	require.ErrorContains(t, c.Validate(), "driver fake boots nothing")
}

// Flintlock does not say which address a microVM has, so it has to be one that we gave.
func TestSSHOnFlintlock(t *testing.T) {
	t.Parallel()
	c := plain(func(p *Profile) { p.Hosts = []string{"zone=a"} })
	c.Driver, c.Guest.PublicAddress = DriverFlintlock, "10.0.0.1"
	c.VM.MaxVCPU, c.VM.MaxMemoryMiB = 8, 8192
	c.Hosts = []Host{
		{Name: "a", Endpoint: "10.0.0.5:9090", VCPU: 8, MemoryMiB: 8192, Labels: []string{"zone=a"}},
		{Name: "b", Endpoint: "10.0.0.6:9090", VCPU: 8, MemoryMiB: 8192},
	}
	require.ErrorContains(t, c.Validate(), "profiles.plain.provision: is ssh, and host a has no addresses")
	require.NotContains(t, c.Validate().Error(), "host b")
	c.Hosts[0].Addresses = Addresses{Range: "10.42.0.0/24", Gateway: "10.42.0.1"}
	require.NoError(t, c.Validate())
}
