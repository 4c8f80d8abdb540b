package config

import (
	"cmp"
	"slices"
	"time"

	"github.com/firerunner/firerunner"
)

// SSH is how a profile's microVMs are reached whose image has no guest agent. Each value that is left out has the
// default that is said here.
type SSH struct {
	User string `yaml:"user"` // root, or one who may sudo without a password; root
	Port int    `yaml:"port"` // 22
	// HostKeys are public keys as in known_hosts, ssh-ed25519 AAAA..., of which the guest must show one: for images that
	// bring their own. Empty: each microVM is given one of its own.
	HostKeys []string `yaml:"host_keys"`

	GitLabRunner       string `yaml:"gitlab_runner" path:"yes"` // a file on this machine, which is uploaded
	GitLabRunnerURL    string `yaml:"gitlab_runner_url"`        // or an address that the guest downloads
	GitLabRunnerSHA256 string `yaml:"gitlab_runner_sha256"`     // of either

	ConnectTimeout time.Duration `yaml:"connect_timeout"` // until sshd lets us in: 3m
	StepTimeout    time.Duration `yaml:"step_timeout"`    // of each step of the installation: 30s
	UploadTimeout  time.Duration `yaml:"upload_timeout"`  // of the one that brings gitlab-runner into the guest: 5m
}

// given reports whether any key of the section has a value.
func (s SSH) given() bool {
	return s.User != "" || s.Port != 0 || len(s.HostKeys) > 0 || s.GitLabRunner != "" || s.GitLabRunnerURL != "" || s.GitLabRunnerSHA256 != "" ||
		s.ConnectTimeout != 0 || s.StepTimeout != 0 || s.UploadTimeout != 0
}

func (p Profile) overSSH() bool { return p.Provision == string(firerunner.ProvisionSSH) }

func (p Profile) sshAccess() firerunner.SSHAccess {
	if !p.overSSH() {
		return firerunner.SSHAccess{}
	}
	return firerunner.SSHAccess{
		User: cmp.Or(p.SSH.User, "root"), Port: cmp.Or(p.SSH.Port, 22), HostKeys: slices.Clone(p.SSH.HostKeys),
		RunnerPath: p.SSH.GitLabRunner, RunnerURL: p.SSH.GitLabRunnerURL, RunnerSHA256: p.SSH.GitLabRunnerSHA256,
		ConnectTimeout: cmp.Or(p.SSH.ConnectTimeout, 3*time.Minute),
		StepTimeout:    cmp.Or(p.SSH.StepTimeout, 30*time.Second),
		UploadTimeout:  cmp.Or(p.SSH.UploadTimeout, 5*time.Minute),
	}
}
