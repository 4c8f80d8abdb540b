package flintlock

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

func valid(t *testing.T) *types.MicroVMSpec {
	t.Helper()
	h := &house{T: t}
	spec := h.spec("0123456789abcdef", "h0")
	spec.Image.OCI.Initrd, spec.Image.OCI.InitrdFile = "registry.example.com/firerunner/kernel:6.1"+digest, "boot/initrd"
	spec.Image.Cmdline = "quiet firerunner.test=1"
	spec.Address = firerunner.GuestNetwork{Address: "10.42.0.7/24", Gateway: "10.42.0.1", DNS: "10.42.0.2"}
	cfg := Config{Namespace: "fr-0123456789ab", GuestURL: "192.0.2.1:7443", GuestFingerprint: "sha256:" + digest[8:]}
	request, err := cfg.request(Host{Name: "h0", Bridge: "br0"}, spec, "one-time")
	require.NoError(t, err)
	return request
}

// TestValidate has one line for each request that would end a host's daemon, block the host, or be accepted and fail.
func TestValidate(t *testing.T) {
	r := rules{stateDir: DefaultStateDir}
	require.NoError(t, r.validate(valid(t)))
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	eth := func(s *types.MicroVMSpec) *types.NetworkInterface { return s.Interfaces[0] }
	for name, c := range map[string]struct {
		change func(*types.MicroVMSpec)
		says   string
	}{
		// What breaks a whole host.
		"no kernel":                     {func(s *types.MicroVMSpec) { s.Kernel = nil }, "no kernel is named"},
		"overrides without a bridge":    {func(s *types.MicroVMSpec) { eth(s).Overrides = &types.NetworkOverrides{} }, "overrides without a bridge"},
		"overrides with an empty one":   {func(s *types.MicroVMSpec) { eth(s).Overrides.BridgeName = proto.String("") }, "overrides without a bridge"},
		"id with a slash":               {func(s *types.MicroVMSpec) { s.Id = "a/b" }, `id "a/b"`},
		"namespace with a slash":        {func(s *types.MicroVMSpec) { s.Namespace = "a/b" }, `namespace "a/b"`},
		"two volumes of one id":         {func(s *types.MicroVMSpec) { s.AdditionalVolumes = []*types.Volume{s.RootVolume} }, "share one snapshot"},
		"an interface called eth0":      {func(s *types.MicroVMSpec) { eth(s).DeviceId = "eth0" }, "flintlockd's own"},
		"an interface that is nothing":  {func(s *types.MicroVMSpec) { s.Interfaces[0] = nil }, "is nothing"},
		"a volume that is nothing":      {func(s *types.MicroVMSpec) { s.AdditionalVolumes = []*types.Volume{nil} }, "is nothing"},
		"socket path too long":          {func(*types.MicroVMSpec) {}, "state folder"},
		"names too long together":       {func(s *types.MicroVMSpec) { s.Id = strings.Repeat("a", 31) }, "letters together"},
		"metadata beyond the store":     {func(s *types.MicroVMSpec) { s.Metadata["x"] = b64(strings.Repeat("\x01", 20_000)) }, "in Firecracker"},
		"metadata too large":            {func(s *types.MicroVMSpec) { s.Metadata["x"] = b64(strings.Repeat("x", 40_000)) }, "metadata has"},
		"3 vCPUs":                       {func(s *types.MicroVMSpec) { s.Vcpu = 3 }, "even number"},
		"34 vCPUs":                      {func(s *types.MicroVMSpec) { s.Vcpu = 34 }, "even number"},
		"MACVTAP, the zero value":       {func(s *types.MicroVMSpec) { eth(s).Type = types.NetworkInterface_MACVTAP }, "TAP only"},
		"a short image":                 {func(s *types.MicroVMSpec) { s.RootVolume.Source.ContainerSource = proto.String("alpine") }, "registry, repository"},
		"an initrd without its file":    {func(s *types.MicroVMSpec) { s.Initrd.Filename = nil }, "initial RAM disk's file"},
		"metadata in the clear":         {func(s *types.MicroVMSpec) { s.Metadata["x"] = "plain text!" }, "not in base64"},
		"vendor-data":                   {func(s *types.MicroVMSpec) { s.Metadata["vendor-data"] = b64("#cloud-config") }, "flintlockd's own"},
		"a provider without metadata":   {func(s *types.MicroVMSpec) { s.Provider = proto.String("cloudhypervisor") }, "no metadata service"},
		"virtiofs":                      {func(s *types.MicroVMSpec) { s.RootVolume.Source.VirtiofsSource = proto.String("/") }, "virtiofs"},
		"the hardware address of eth0":  {func(s *types.MicroVMSpec) { eth(s).GuestMac = proto.String("AA:FF:00:00:00:01") }, "hardware address of eth0"},
		"a gateway without a prefix":    {func(s *types.MicroVMSpec) { eth(s).Address.Gateway = proto.String("10.42.0.1") }, "gateway"},
		"a gateway elsewhere":           {func(s *types.MicroVMSpec) { eth(s).Address.Gateway = proto.String("10.43.0.1/24") }, "not in the network"},
		"its own gateway":               {func(s *types.MicroVMSpec) { eth(s).Address.Gateway = proto.String("10.42.0.7/24") }, "its own gateway"},
		"network-config twice":          {func(s *types.MicroVMSpec) { s.Kernel.Cmdline["network-config"] = "x" }, "flintlockd's own"},
		"a kernel word with a space":    {func(s *types.MicroVMSpec) { s.Kernel.Cmdline["a"] = "b c" }, "kernel word"},
		"a kernel word that is two":     {func(s *types.MicroVMSpec) { s.Kernel.Cmdline["a b"] = "" }, "kernel word"},
		"two interfaces of one id":      {func(s *types.MicroVMSpec) { s.Interfaces = append(s.Interfaces, s.Interfaces[0]) }, "two network interfaces"},
		"a tag that can change":         {func(s *types.MicroVMSpec) { s.Kernel.Image = "registry.example.com/kernel:6.1" }, "no digest"},
		"a kernel outside its image":    {func(s *types.MicroVMSpec) { s.Kernel.Filename = proto.String("../../etc/shadow") }, "plain path"},
		"a kernel by an absolute path":  {func(s *types.MicroVMSpec) { s.Kernel.Filename = proto.String("/boot/vmlinux") }, "plain path"},
		"a root volume that is missing": {func(s *types.MicroVMSpec) { s.RootVolume = nil }, "no root volume"},

		// What is refused at once, less clearly.
		"no id":                 {func(s *types.MicroVMSpec) { s.Id = "" }, `id ""`},
		"id that leads out":     {func(s *types.MicroVMSpec) { s.Id = ".." }, `id ".."`},
		"id with a space":       {func(s *types.MicroVMSpec) { s.Id = "a b" }, `id "a b"`},
		"id beyond ASCII":       {func(s *types.MicroVMSpec) { s.Id = "ä" }, "id "},
		"no namespace":          {func(s *types.MicroVMSpec) { s.Namespace = "" }, "namespace"},
		"no kernel image":       {func(s *types.MicroVMSpec) { s.Kernel.Image = "" }, "no kernel image is named"},
		"no kernel file":        {func(s *types.MicroVMSpec) { s.Kernel.Filename = nil }, "kernel's file"},
		"no root image":         {func(s *types.MicroVMSpec) { s.RootVolume.Source = nil }, "no image of volume root"},
		"no vCPUs":              {func(s *types.MicroVMSpec) { s.Vcpu = 0 }, "0 vCPUs"},
		"512 MiB":               {func(s *types.MicroVMSpec) { s.MemoryInMb = 512 }, "512 MiB"},
		"40000 MiB":             {func(s *types.MicroVMSpec) { s.MemoryInMb = 40000 }, "40000 MiB"},
		"no interface":          {func(s *types.MicroVMSpec) { s.Interfaces = nil }, "no network interface"},
		"interface with a dash": {func(s *types.MicroVMSpec) { eth(s).DeviceId = "eth-1" }, "plain name"},
		"bridge that is a path": {func(s *types.MicroVMSpec) { eth(s).Overrides.BridgeName = proto.String("../br0") }, "no name of a Linux"},
		"no hardware address":   {func(s *types.MicroVMSpec) { eth(s).GuestMac = proto.String("x") }, "hardware address"},
		"address, no prefix":    {func(s *types.MicroVMSpec) { eth(s).Address.Address = "10.42.0.7" }, "prefix length"},
		"link-local address":    {func(s *types.MicroVMSpec) { eth(s).Address.Address = "169.254.169.254/16" }, "link-local"},
		"name server by name":   {func(s *types.MicroVMSpec) { eth(s).Address.Nameservers = []string{"dns"} }, "name server"},
		"metadata key, a path":  {func(s *types.MicroVMSpec) { s.Metadata["a/b"] = "" }, "metadata key"},
		"volume id, a path":     {func(s *types.MicroVMSpec) { s.RootVolume.Id = "a/b" }, "volume id"},
	} {
		t.Run(name, func(t *testing.T) {
			spec, rules := valid(t), r
			c.change(spec)
			if strings.HasPrefix(name, "socket path") {
				rules.stateDir = "/var/lib/a-rather-long-folder/flintlock"
			}
			err := rules.validate(spec)
			require.ErrorContains(t, err, c.says)
			require.Equal(t, firerunner.Invalid, firerunner.CodeOf(err))
		})
	}
	require.ErrorContains(t, r.validate(nil), "no microVM")
	tagged := valid(t)
	tagged.Kernel.Image = "registry.example.com:5000/kernel:6.1"
	require.NoError(t, rules{stateDir: DefaultStateDir, tags: true}.validate(tagged))
}

func TestReference(t *testing.T) {
	for ref, ok := range map[string]bool{
		"registry.example.com/a/b:1" + digest:                       true,
		"registry.example.com/a" + digest:                           true,
		"localhost:5000/a:1" + digest:                               true,
		"localhost/a" + digest:                                      true,
		"127.0.0.1:5000/a_b/c-d" + digest:                           true,
		"[::1]:5000/a" + digest:                                     true,
		"alpine" + digest:                                           false, // no registry
		"library/alpine" + digest:                                   false,
		"registry.example.com/A" + digest:                           false, // repositories are in lower case
		"registry.example.com/a:1":                                  false,
		"registry.example.com/a":                                    false,
		"registry.example.com/a@sha256:12":                          false,
		" registry.example.com/a" + digest:                          false,
		"registry.example.com/a" + digest + "\n":                    false,
		"https://registry.example.com/a" + digest:                   false,
		"registry.example.com/" + strings.Repeat("a", 600) + digest: false,
	} {
		err := checkReference("image", ref, false)
		require.Equal(t, ok, err == nil, "%q: %v", ref, err)
	}
	require.NoError(t, checkReference("image", "registry.example.com/a:1", true))
	require.Error(t, checkReference("image", "registry.example.com/a", true))
}

// FuzzReference: what is accepted names a registry and has no character that a host would trip over.
func FuzzReference(f *testing.F) {
	f.Add("registry.example.com/a/b:1" + digest)
	f.Add("alpine")
	f.Fuzz(func(t *testing.T, ref string) {
		if checkReference("image", ref, true) != nil {
			return
		}
		require.Contains(t, ref, "/")
		require.NotContains(t, ref, " ")
		require.Equal(t, strings.TrimSpace(ref), ref)
		require.LessOrEqual(t, len(ref), maxReference)
	})
}
