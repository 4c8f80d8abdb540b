package config

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// hostName is what a host may be called.
var hostName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// bridgeName is what Linux calls an interface (IFNAMSIZ is 16 with the final zero).
var bridgeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$`)

// hostKey is the key of one host of the list.
func hostKey(i int) string { return fmt.Sprintf("hosts[%d]", i) }

// hosts checks the way to the hosts, and what they give.
func (k *checker) hosts() {
	k.guest()
	for _, t := range []struct{ key, value string }{
		{"flintlock.kernel_image", k.Flintlock.KernelImage}, {"flintlock.initrd_image", k.Flintlock.InitrdImage}, {"flintlock.rootfs_image", k.Flintlock.RootFSImage},
	} {
		k.reference(t.key, t.value)
	}
	k.tls("flintlock.tls", k.Flintlock.TLS)
	k.bridge("flintlock.bridge", k.Flintlock.Bridge)
	if k.Driver != DriverFlintlock {
		for _, key := range []string{"hosts", "flintlock.endpoint"} {
			if key == "hosts" && len(k.Hosts) > 0 || key != "hosts" && k.Flintlock.Endpoint != "" {
				k.problem(key, "is for driver flintlock, and driver is %s", short(k.Driver)).Hint = "driver: flintlock"
			}
		}
		return
	}
	switch {
	case len(k.Hosts) == 0 && k.Flintlock.Endpoint == "":
		k.problem("hosts", "is missing: driver flintlock needs a host").Hint = "hosts, or flintlock.endpoint for a single one"
	case len(k.Hosts) > 0 && k.Flintlock.Endpoint != "":
		k.problem("flintlock.endpoint", "is given, and so are hosts").Hint = "move it into hosts"
	case len(k.Hosts) == 0:
		k.endpoint("flintlock.endpoint", k.Flintlock.Endpoint)
	}
	if k.VM.KernelImage != "" {
		k.problem("vm.kernel_image", "is a file of this machine, and flintlock's hosts pull images from a registry").Hint = "flintlock.kernel_image"
	}
	names := map[string]int{}
	for i := range k.Hosts {
		k.host(i)
		name := k.Hosts[i].Name
		if first, twice := names[name]; twice && name != "" {
			k.problem(hostKey(i)+".name", "%s is the name of %s already", name, hostKey(first))
		} else {
			names[name] = i
		}
	}
	k.pools()
	k.hostsOfProfiles()
}

// host checks one host of the list.
func (k *checker) host(i int) {
	key, h := hostKey(i), k.Hosts[i]
	switch {
	case h.Name == "":
		k.problem(key, "name is missing")
	case !hostName.MatchString(h.Name):
		k.problem(key+".name", "%q is not a host's name", short(h.Name)).Hint = "letters, digits, dot, dash and underscore"
	}
	if h.Endpoint == "" {
		k.problem(key, "endpoint is missing").Hint = "host:port of flintlockd's gRPC, such as 10.0.0.5:9090"
	} else {
		k.endpoint(key+".endpoint", h.Endpoint)
	}
	if strings.ContainsFunc(h.Token.Reveal(), func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		k.problem(key+".token", "holds a space or a line break")
	}
	k.tls(key+".tls", h.TLS)
	for _, n := range []struct {
		name               string
		value, least, most int
	}{{"vcpu", h.VCPU, 1, 100_000}, {"memory_mb", h.MemoryMiB, 1, 1 << 30}} {
		if n.value == 0 {
			k.problem(key, "%s is missing: flintlock does not say what its host has", n.name)
			continue
		}
		k.between(key+"."+n.name, n.value, n.least, n.most)
	}
	if h.Slots != 0 {
		k.between(key+".slots", h.Slots, 1, 10_000)
	}
	if h.OvercommitCPU != 0 && !(h.OvercommitCPU >= 1 && h.OvercommitCPU <= 100) { // also refuses NaN
		k.problem(key+".overcommit_cpu", "%v is not between 1 and 100", h.OvercommitCPU)
	}
	k.labels(key+".labels", h.Labels)
	if h.KernelImage != "" && h.KernelFile == "" {
		k.problem(key+".kernel_image", "kernel_file is missing: the kernel's path in the image, such as boot/vmlinux")
	}
	k.reference(key+".kernel_image", h.KernelImage)
	k.reference(key+".initrd_image", h.InitrdImage)
	k.reference(key+".rootfs_image", h.RootFSImage)
	k.bridge(key+".bridge", h.Bridge)
	if h.PublicAddress != "" && !isHostPort(k.Guest.endpoint(h.PublicAddress)) {
		k.problem(key+".guest_address", "%q is neither an address nor host:port", short(h.PublicAddress))
	}
	if _, err := h.Addresses.pool(); err != nil {
		k.problem(k.nearestGiven(key+".addresses"), "%v", err)
	}
}

// nearestGiven returns a key of a section that was given, so that its problem has a line.
func (k *checker) nearestGiven(section string) string {
	if _, given := k.origins[section]; given {
		return section
	}
	return section[:strings.LastIndex(section, ".")]
}

// hostsOfProfiles checks that each profile has a host.
func (k *checker) hostsOfProfiles() {
	for name, p := range k.Profiles {
		k.labels(dotted("profiles", name)+".hosts", p.Hosts)
		found := len(p.Hosts) == 0 || slices.ContainsFunc(k.Fleet(), func(h Host) bool {
			return !slices.ContainsFunc(p.Hosts, func(label string) bool { return !slices.Contains(h.Labels, label) })
		})
		if !found {
			k.problem(dotted("profiles", name)+".hosts", "no host has the labels %s: such a job would wait forever", short(strings.Join(p.Hosts, ", ")))
		}
	}
}

// guest checks the endpoint that guests call.
func (k *checker) guest() {
	if k.Guest.Port < 0 || k.Guest.Port > 65535 {
		k.problem("guest.port", "%d is not a port", k.Guest.Port)
	}
	if h := k.Guest.Host; h != "" && h != "localhost" && net.ParseIP(h) == nil {
		k.problem("guest.host", "%q is not an address of this machine", short(h)).Hint = "0.0.0.0 listens on all"
	}
	switch address := k.Guest.PublicAddress; {
	case address != "" && !isHostPort(k.Guest.Endpoint()):
		k.problem("guest.public_address", "%q is neither an address nor host:port", short(address))
	case address == "" && k.Driver == DriverFlintlock && slices.ContainsFunc(k.Fleet(), func(h Host) bool { return h.PublicAddress == "" }):
		k.problem("guest.public_address", "is missing: guests of flintlock's hosts call FireRunner there").Hint = "an address of this machine that they reach from their bridge"
	}
}

func (k *checker) endpoint(key, text string) {
	if !isHostPort(text) {
		k.problem(key, "%q is not host:port", short(text)).Hint = "flintlockd's gRPC, such as 10.0.0.5:9090"
	}
}

func (k *checker) tls(key string, t TLS) {
	if t.Insecure && (t.CAFile != "" || t.CertFile != "" || t.KeyFile != "" || t.ServerName != "") {
		k.problem(key+".insecure", "is true, and certificates are given: which one is meant?").Hint = "remove insecure"
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		given := ".cert_file"
		if t.CertFile == "" {
			given = ".key_file"
		}
		k.problem(key+given, "is given alone: cert_file and key_file go together")
	}
}

func (k *checker) bridge(key, name string) {
	if name != "" && !bridgeName.MatchString(name) {
		k.problem(key, "%q is not the name of a bridge", short(name))
	}
}

func (k *checker) labels(key string, labels []string) {
	for _, label := range labels {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == ',' }) {
			k.problem(key, "%q is not a label", short(label)).Hint = "up to 63 characters without spaces and commas, such as zone=a"
		}
	}
}

// reference checks that a host would know which registry is meant: it takes a short name for a path and fails later.
func (k *checker) reference(key, text string) {
	if text == "" {
		return
	}
	registry, name, ok := strings.Cut(text, "/")
	if !ok || name == "" || strings.ContainsFunc(text, unicode.IsSpace) || !strings.ContainsAny(registry, ".:") && registry != "localhost" {
		k.problem(key, "%q does not name a registry", short(text)).Hint = "such as registry.example.com/firerunner/rootfs:1"
	}
}

// isHostPort allows names and addresses with a port.
func isHostPort(text string) bool {
	host, port, err := net.SplitHostPort(text)
	n, portErr := strconv.Atoi(port)
	return err == nil && portErr == nil && n > 0 && n < 65536 && host != "" && len(host) < 254 &&
		!strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`/\"'?#@`, r) })
}

// Warnings are what is permitted and should be known.
func (c *Config) Warnings() Problems {
	var all Problems
	inherited := map[string]bool{}
	for i, h := range c.Fleet() {
		key := "flintlock"
		if i < len(c.Hosts) && c.Hosts[i].TLS != (TLS{}) {
			key = hostKey(i)
		}
		if h.TLS.Insecure && !inherited[key] {
			inherited[key] = true
			all = append(all, c.at(key+".tls.insecure", "no TLS to host %s: its token, and the one-time token of each guest, can be read on the way", h.Name).
				withHint("give flintlockd a certificate (--tls-cert, --tls-key), and remove insecure"))
		}
		if h.Token == "" && h.TokenFile == "" {
			all = append(all, c.at("hosts", "host %s asks for no token: whoever reaches %s can make and delete microVMs there", h.Name, h.Endpoint).
				withHint("start flintlockd with --basic-auth-token, and give token_file"))
		}
	}
	return append(all, c.poolWarnings()...)
}
