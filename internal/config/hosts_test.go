package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

const fleetText = `driver: flintlock
guest: {public_address: 10.0.0.2}
flintlock:
  token: shared
  bridge: br0
  tls: {ca_file: ca.pem}
  rootfs_image: registry.example.com/rootfs:1
hosts:
  - name: a
    endpoint: 10.0.0.5:9090
    vcpu: 8
    memory_mb: 16384
    labels: [zone=a]
    addresses: {range: 10.42.0.0/24, gateway: 10.42.0.1}
  - name: b
    endpoint: "[fd00::5]:9090"
    vcpu: 48
    memory_mb: 65536
    overcommit_cpu: 1
    slots: 20
    token_file: own
    tls: {insecure: true}
    bridge: br1
    guest_address: b.example.com:9443
`

func TestFleet(t *testing.T) {
	t.Parallel()
	path := write(t, enough+fleetText+"profiles: {near: {tags: [near], hosts: [zone=a]}}\n")
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(path), "own"), []byte("mine\n"), 0o600))
	c, err := Load(Sources{File: path, Machine: machine()})
	require.NoError(t, err)
	fleet := c.Fleet()
	require.Len(t, fleet, 2)
	require.Equal(t, "shared", fleet[0].Token.Reveal())
	require.Equal(t, "mine", fleet[1].Token.Reveal())
	require.Equal(t, TLS{CAFile: filepath.Join(filepath.Dir(path), "ca.pem")}, fleet[0].TLS)
	require.Equal(t, TLS{Insecure: true}, fleet[1].TLS)
	require.Equal(t, "10.0.0.2:8443", fleet[0].PublicAddress)
	require.Equal(t, "b.example.com:9443", fleet[1].PublicAddress)
	require.Equal(t, []string{"br0", "br1"}, []string{fleet[0].Bridge, fleet[1].Bridge})
	require.Equal(t, "registry.example.com/rootfs:1", fleet[1].OCI().RootFS)
	require.Equal(t, []firerunner.Host{
		{
			Name: "a", Driver: "flintlock", VCPUs: 16, MemoryMiB: 16384, Slots: 16, Labels: []string{"zone=a"},
			Addresses: firerunner.AddressPool{
				First: netip.MustParseAddr("10.42.0.2"), Last: netip.MustParseAddr("10.42.0.254"), Bits: 24, Gateway: netip.MustParseAddr("10.42.0.1"),
			},
		},
		{Name: "b", Driver: "flintlock", VCPUs: 48, MemoryMiB: 65536, Slots: 20},
	}, c.HostList())
	require.Equal(t, 36, c.TotalSlots())
	require.Equal(t, 32, c.VM.MaxVCPU, "the most that firecracker makes")
	require.Equal(t, 32768, c.VM.MaxMemoryMiB)
	require.Equal(t, []string{"zone=a"}, c.ProfileList()[1].Hosts)
	warnings := c.Warnings()
	require.Len(t, warnings, 1)
	require.Contains(t, warnings[0].String(), path+":")
	require.Contains(t, warnings[0].String(), "hosts[1].tls.insecure: no TLS to host b")
	require.NotContains(t, warnings.Error(), "mine")
}

// The short form: one host, named after its endpoint, that has what scheduler says.
func TestFleetShortForm(t *testing.T) {
	t.Parallel()
	path := write(t, enough+"driver: flintlock\nguest: {public_address: 10.0.0.2}\nflintlock: {endpoint: '[fd00::7]:9090', tls: {insecure: true}}\n")
	c, err := Load(Sources{File: path, Machine: machine(), Environ: []string{"FIRERUNNER_FLINTLOCK_TOKEN=from-the-environment"}})
	require.NoError(t, err)
	fleet := c.Fleet()
	require.Len(t, fleet, 1)
	require.Equal(t, "fd00--7", fleet[0].Name)
	require.Equal(t, "from-the-environment", fleet[0].Token.Reveal())
	require.Equal(t, []firerunner.Host{{Name: "fd00--7", Driver: "flintlock", VCPUs: 8, MemoryMiB: 14336, Slots: 4}}, c.HostList())
	require.Contains(t, c.Warnings().Error(), ": flintlock.tls.insecure: no TLS to host fd00--7")

	c, err = Load(Sources{File: write(t, enough), Machine: machine()})
	require.NoError(t, err)
	require.Empty(t, c.Fleet())
	require.Empty(t, c.Warnings())
	require.Equal(t, []firerunner.Host{c.Host()}, c.HostList())
}

// Every problem of the hosts at once, each with its line.
func TestFleetErr(t *testing.T) {
	t.Parallel()
	path := write(t, `driver: flintlock
flintlock:
  probe_intervall: 1s
  lost_after: 1ms
  kernel_image: kernel
vm: {kernel_image: k, rootfs_image: r}
profiles: {far: {tags: [far], hosts: [zone=z]}}
guest: {host: here, port: 70000}
hosts:
  - endpoint: nowhere
    vcpu: 2
    labels: ["a b"]
  - name: a/b
    endpoint: h:9090
    memory_mb: 4096
    vcpu: 4
    vcpus: 4
    token: "x y"
    token_file: nothing
    tls: {insecure: true, ca_file: x}
    overcommit_cpu: 0.5
    bridge: far-too-long-for-linux
  - name: twice
    endpoint: h:9090
    vcpu: two
    memory_mb: 4096
    slots: -1
    tls: {cert_file: c}
    kernel_image: registry.example.com/k:1
    addresses: {range: 10.0.0.1/24}
    guest_address: "a b"
  - {name: twice, endpoint: "h:9090", vcpu: 4, memory_mb: 4096}
`)
	_, err := Load(Sources{File: path, Machine: machine(), WithoutGitLab: true})
	got := strings.ReplaceAll(problemsOf(t, err).Error(), path, "FILE")
	for _, want := range []string{
		"FILE:3: flintlock.probe_intervall: unknown key (did you mean probe_interval?)",
		"FILE:4: flintlock.lost_after: 1ms is not between 1s and 24h0m0s",
		"FILE:5: flintlock.kernel_image: \"kernel\" does not name a registry",
		"FILE:6: vm.kernel_image: is a file of this machine",
		"FILE:7: profiles.far.hosts: no host has the labels zone=z: such a job would wait forever",
		"FILE:8: guest.host: \"here\" is not an address of this machine",
		"FILE:8: guest.port: 70000 is not a port",
		"FILE:10: hosts[0]: name is missing",
		"FILE:10: hosts[0].endpoint: \"nowhere\" is not host:port",
		"FILE:10: hosts[0]: memory_mb is missing: flintlock does not say what its host has",
		"FILE:12: hosts[0].labels: \"a b\" is not a label",
		"FILE:13: hosts[1].name: \"a/b\" is not a host's name",
		"FILE:17: hosts[1].vcpus: unknown key (did you mean vcpu?)",
		"FILE:18: hosts[1].token: holds a space or a line break",
		"FILE:19: hosts[1].token_file: hosts[1].token and hosts[1].token_file are both given (remove one of them)",
		"FILE:20: hosts[1].tls.insecure: is true, and certificates are given",
		"FILE:21: hosts[1].overcommit_cpu: 0.5 is not between 1 and 100",
		"FILE:22: hosts[1].bridge: \"far-too-long-for-linux\" is not the name of a bridge",
		"FILE:25: hosts[2].vcpu: \"two\" is not a whole number",
		"FILE:27: hosts[2].slots: -1 is not between 1 and 10000",
		"FILE:28: hosts[2].tls.cert_file: is given alone",
		"FILE:29: hosts[2].kernel_image: kernel_file is missing",
		"FILE:23: hosts[2]: range \"10.0.0.1/24\" is not a network such as 10.42.0.0/24",
		"FILE:31: hosts[2].guest_address: \"a b\" is neither an address nor host:port",
		"FILE:32: hosts[3].name: twice is the name of hosts[2] already",
		"guest.public_address: is missing",
	} {
		require.Contains(t, got, want)
	}
	require.NotContains(t, got, "x y")

	for text, want := range map[string]string{
		"driver: flintlock\nguest: {public_address: h}\n": "hosts: is missing: driver flintlock needs a host",
		"driver: flintlock\nguest: {public_address: h}\nflintlock: {endpoint: 'h:1'}\nhosts: [{name: a, endpoint: 'h:1', vcpu: 4, memory_mb: 4096}]\n": "flintlock.endpoint: is given, and so are hosts",
		"driver: flintlock\nguest: {public_address: h}\nflintlock: {endpoint: h}\n":                                                                    "flintlock.endpoint: \"h\" is not host:port",
		"hosts: [{name: a, endpoint: 'h:1', vcpu: 4, memory_mb: 4096}]\n":                                                                              "hosts: is for driver flintlock, and driver is qemu",
		"hosts: {a: b}\n": "hosts: needs a list",
		"hosts: [a]\n":    "hosts[0]: needs keys below it",
		"driver: flintlock\nguest: {public_address: h}\nvm: {max_vcpu: 33}\nhosts: [{name: a, endpoint: 'h:1', vcpu: 64, memory_mb: 4096}]\n": "vm.max_vcpu: 33 vCPU is more than any host gives to one microVM, 32",
	} {
		_, err := Load(Sources{File: write(t, text), Machine: machine(), WithoutGitLab: true})
		require.Contains(t, problemsOf(t, err).Error(), want, text)
	}
}

// A token of a host in a file that everybody can read is refused as every other secret is.
func TestFleetSecretsAreKept(t *testing.T) {
	t.Parallel()
	path := write(t, enough+fleetText+"  - {name: c, endpoint: 'h:1', vcpu: 4, memory_mb: 4096, token: hush-of-c}\n")
	require.NoError(t, os.Chmod(path, 0o644))
	_, err := Load(Sources{File: path, Machine: machine()})
	got := problemsOf(t, err).Error()
	require.Contains(t, got, "hosts[2].token: every user of the machine can read this secret")
	require.Contains(t, got, "hosts[1].token_file: reading a secret from ")
	require.NotContains(t, got, "hush-of-c")
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		a           Addresses
		first, last string
		problem     string
	}{
		"None":            {},
		"Range":           {a: Addresses{Range: "10.0.0.0/29"}, first: "10.0.0.1", last: "10.0.0.6"},
		"GatewayFirst":    {a: Addresses{Range: "10.0.0.0/29", Gateway: "10.0.0.1", DNS: "10.0.0.2"}, first: "10.0.0.3", last: "10.0.0.6"},
		"GatewayLast":     {a: Addresses{Range: "10.0.0.0/29", Gateway: "10.0.0.6"}, first: "10.0.0.1", last: "10.0.0.5"},
		"V6":              {a: Addresses{Range: "fd00::/120"}, first: "fd00::1", last: "fd00::ff"},
		"FirstLast":       {a: Addresses{First: "10.0.0.10", Last: "10.0.0.20", Prefix: 24, Gateway: "10.0.0.1", DNS: "1.1.1.1"}, first: "10.0.0.10", last: "10.0.0.20"},
		"ErrBoth":         {a: Addresses{Range: "10.0.0.0/29", First: "10.0.0.1"}, problem: "range excludes first"},
		"ErrHalf":         {a: Addresses{First: "10.0.0.1", Last: "10.0.0.2"}, problem: "needs range, or first, last and prefix"},
		"ErrAddress":      {a: Addresses{First: "x"}, problem: `first "x" is not an address`},
		"ErrZone":         {a: Addresses{First: "fe80::1%eth0"}, problem: "is not an address"},
		"ErrPrefix":       {a: Addresses{First: "10.0.0.1", Last: "10.0.0.2", Prefix: 33}, problem: "prefix 33 does not fit 10.0.0.1"},
		"ErrOrder":        {a: Addresses{First: "10.0.0.9", Last: "10.0.0.2", Prefix: 24}, problem: "is no part of network"},
		"ErrOutside":      {a: Addresses{First: "10.0.0.9", Last: "10.0.1.2", Prefix: 24}, problem: "is no part of network 10.0.0.0/24"},
		"ErrFamilies":     {a: Addresses{First: "10.0.0.9", Last: "fd00::1", Prefix: 24}, problem: "is no part of network"},
		"ErrNetwork":      {a: Addresses{First: "10.0.0.0", Last: "10.0.0.9", Prefix: 24}, problem: "holds the network's own or its broadcast address"},
		"ErrBroadcast":    {a: Addresses{First: "10.0.0.9", Last: "10.0.0.255", Prefix: 24}, problem: "holds the network's own or its broadcast address"},
		"ErrGateway":      {a: Addresses{Range: "10.0.0.0/24", Gateway: "10.0.0.77"}, problem: "gateway 10.0.0.77 would be given to a microVM"},
		"ErrDNS":          {a: Addresses{Range: "10.0.0.0/24", DNS: "10.0.0.77"}, problem: "dns 10.0.0.77 would be given to a microVM"},
		"ErrGatewayApart": {a: Addresses{Range: "10.0.0.0/24", Gateway: "10.0.9.1"}, problem: "gateway 10.0.9.1 is not in network 10.0.0.0/24"},
		"ErrTooMany":      {a: Addresses{Range: "10.0.0.0/8"}, problem: "more than 65536 addresses"},
		"ErrTooManyV6":    {a: Addresses{Range: "fd00::/32"}, problem: "more than 65536 addresses"},
		"ErrMasked":       {a: Addresses{Range: "10.0.0.9/24"}, problem: "is not a network"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := tt.a.pool()
			if tt.problem != "" {
				require.ErrorContains(t, err, tt.problem)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.first != "", !p.Empty())
			if !p.Empty() {
				require.Equal(t, []string{tt.first, tt.last}, []string{p.First.String(), p.Last.String()})
			}
		})
	}
}
