package config

import (
	"encoding/base64"
	"encoding/binary"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
)

var (
	loginName = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`) // useradd(8)
	sha256Sum = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// provision checks how gitlab-runner gets into the microVMs of a profile.
func (k *checker) provision(name string) {
	p, key := k.Profiles[name], dotted("profiles", name)
	if p.Provision != "" {
		k.oneOf(key+".provision", p.Provision, string(firerunner.ProvisionAgent), string(firerunner.ProvisionSSH))
	}
	if !p.overSSH() {
		if p.SSH.given() {
			k.problem(k.anyOf(key+".ssh"), "is given, and the profile does not say provision: ssh").Hint = "add it, or remove ssh"
		}
		return
	}
	k.sshWay(name)
	s, key := p.SSH, key+".ssh"
	if s.User != "" && !loginName.MatchString(s.User) {
		k.problem(key+".user", "%q is not a user's name", short(s.User))
	}
	if s.Port != 0 {
		k.between(key+".port", s.Port, 1, 65535)
	}
	for _, hostKey := range s.HostKeys {
		if !isPublicKey(hostKey) {
			k.problem(key+".host_keys", "%q is not a public key", short(hostKey)).Hint = "ssh-ed25519 AAAA..., as in /etc/ssh/ssh_host_ed25519_key.pub of the image"
		}
	}
	for _, t := range []struct {
		key   string
		value time.Duration
	}{{".connect_timeout", s.ConnectTimeout}, {".step_timeout", s.StepTimeout}, {".upload_timeout", s.UploadTimeout}} {
		if t.value != 0 && (t.value < time.Second || t.value > time.Hour) {
			k.problem(key+t.key, "%v is not between 1s and 1h", t.value)
		}
	}
	k.sshRunner(key, s)
}

// sshRunner checks where gitlab-runner comes from.
func (k *checker) sshRunner(key string, s SSH) {
	at := k.anyOf(key)
	switch {
	case s.GitLabRunner == "" && s.GitLabRunnerURL == "":
		k.problem(at, "gitlab_runner is missing: the image is not expected to have it").Hint = "the path of gitlab-runner on this machine, or gitlab_runner_url"
	case s.GitLabRunner != "" && s.GitLabRunnerURL != "":
		k.problem(key+".gitlab_runner_url", "is given, and so is gitlab_runner: which one is meant?")
	case s.GitLabRunnerURL != "":
		if u, err := url.Parse(s.GitLabRunnerURL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
			k.problem(key+".gitlab_runner_url", "is not a web address without a password")
		}
	}
	switch {
	case s.GitLabRunnerSHA256 == "":
		k.problem(at, "gitlab_runner_sha256 is missing").Hint = "print it with sha256sum"
	case !sha256Sum.MatchString(s.GitLabRunnerSHA256):
		k.problem(key+".gitlab_runner_sha256", "is not 64 hexadecimal digits in lower case").Hint = "print it with sha256sum"
	}
}

// sshWay checks that FireRunner can reach the profile's microVMs.
func (k *checker) sshWay(name string) {
	key := dotted("profiles", name) + ".provision"
	switch k.Driver {
	case "fake":
		k.problem(key, "is ssh, and driver fake boots nothing that one could log in to")
	case DriverFlintlock:
		for _, h := range k.Fleet() {
			if slices.ContainsFunc(k.Profiles[name].Hosts, func(label string) bool { return !slices.Contains(h.Labels, label) }) {
				continue
			}
			if pool, err := h.Addresses.pool(); err == nil && pool.Empty() {
				k.problem(key, "is ssh, and host %s has no addresses: flintlock does not tell which address a microVM has", short(h.Name)).
					Hint = "give the host addresses, or let the profile choose others by hosts"
			}
		}
	}
}

// anyOf returns the key of a section that was given first, or the section's parent, so that its problem has a line.
func (k *checker) anyOf(section string) string {
	var given []string
	for key := range k.origins {
		if strings.HasPrefix(key, section+".") {
			given = append(given, key)
		}
	}
	if len(given) == 0 {
		return section[:strings.LastIndex(section, ".")]
	}
	slices.SortFunc(given, func(a, b string) int { return k.origins[a].line - k.origins[b].line })
	return given[0]
}

// isPublicKey looks whether the base64 holds the very type that stands before it: RFC 4253, 6.6.
func isPublicKey(text string) bool {
	fields := strings.Fields(text)
	if len(fields) < 2 || len(text) > 8<<10 {
		return false
	}
	blob, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil || len(blob) < 4 {
		return false
	}
	length := binary.BigEndian.Uint32(blob)
	return int64(length) <= int64(len(blob)-4) && string(blob[4:4+length]) == fields[0]
}
