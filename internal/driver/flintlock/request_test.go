package flintlock

import (
	"crypto/sha256"
	"encoding/base64"
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"gopkg.in/yaml.v3"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

func decoded(t *testing.T, spec *types.MicroVMSpec, key string) string {
	t.Helper()
	text, err := base64.StdEncoding.DecodeString(spec.Metadata[key])
	require.NoError(t, err)
	return string(text)
}

func TestRequest(t *testing.T) {
	spec := valid(t)
	require.Equal(t, "fr-0123456789ab", spec.Namespace)
	require.Equal(t, "boot/vmlinux", spec.Kernel.GetFilename())
	require.True(t, spec.Kernel.AddNetworkConfig, "cloud-init, and eth0's own address, need it")
	require.Equal(t, map[string]string{"quiet": "", "firerunner.test": "1"}, spec.Kernel.Cmdline)
	require.Equal(t, "boot/initrd", spec.Initrd.GetFilename())
	require.Len(t, spec.Interfaces, 1)
	own := spec.Interfaces[0]
	require.Equal(t, types.NetworkInterface_TAP, own.Type)
	require.Equal(t, "br0", own.Overrides.GetBridgeName())
	require.Equal(t, "10.42.0.7/24", own.Address.Address)
	require.Equal(t, "10.42.0.1/24", own.Address.GetGateway(), "flintlockd wants a prefix length there too")
	require.Equal(t, []string{"10.42.0.2"}, own.Address.Nameservers)
	mac, err := net.ParseMAC(own.GetGuestMac())
	require.NoError(t, err)
	require.Equal(t, byte(2), mac[0]&3, "locally administered, of one machine")
	require.NotEqual(t, guestMAC("a"), guestMAC("b"))

	story := regexp.MustCompile(`,"deadline":\d{10}\b`).ReplaceAllString(decoded(t, spec, firerunnerKey), "")
	require.JSONEq(t, `{"v":1,"id":"0123456789abcdef","endpoint":"192.0.2.1:7443","fingerprint":"sha256:`+digest[8:]+`",
		"token":"one-time","address":"10.42.0.7/24","gateway":"10.42.0.1","dns":"10.42.0.2","heartbeat":1}`, story)
	require.NotEqual(t, story, decoded(t, spec, firerunnerKey), "the deadline is there")
	var meta map[string]string
	require.NoError(t, yaml.Unmarshal([]byte(decoded(t, spec, metaDataKey)), &meta))
	require.Equal(t, map[string]string{
		"instance_id": "0123456789abcdef", "instance-id": "0123456789abcdef", "local-hostname": "0123456789abcdef",
	}, meta)
	hash, ok := tokenHash(&types.MicroVM{Spec: spec})
	require.True(t, ok)
	require.Equal(t, sha256.Sum256([]byte("one-time")), hash)

	all, err := protojson.Marshal(spec)
	require.NoError(t, err)
	require.NotContains(t, string(all), "glrt-")
	for key := range spec.Metadata {
		require.NotContains(t, decoded(t, spec, key), "glrt-", "GitLab's token must not be in metadata")
	}
}

func TestRequestByDHCP(t *testing.T) {
	h := &house{T: t}
	spec, err := Config{Namespace: "n", GuestURL: "g:1"}.request(Host{Name: "h0", GuestURL: "192.0.2.9:7443"}, h.spec("a", "h0"), "t")
	require.NoError(t, err)
	require.Nil(t, spec.Interfaces[0].Address)
	require.Nil(t, spec.Interfaces[0].Overrides, "without a bridge there must be no overrides: they end the daemon")
	require.Nil(t, spec.Initrd)
	require.Contains(t, decoded(t, spec, firerunnerKey), `"endpoint":"192.0.2.9:7443"`, "a host may reach us by another address")
	require.NotContains(t, decoded(t, spec, firerunnerKey), "address")
}

func TestKernelWords(t *testing.T) {
	words, err := kernelWords(" quiet  root=/dev/vda a=b=c ")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"quiet": "", "root": "/dev/vda", "a": "b=c"}, words)
	_, err = kernelWords("console=ttyS0 console=tty0")
	require.ErrorContains(t, err, "twice")
	_, err = kernelWords("init=/bin/sh -- x")
	require.ErrorContains(t, err, "--")
}

func TestHostImage(t *testing.T) {
	image := firerunner.Image{Name: "a", OCI: firerunner.OCIImage{Kernel: "k", KernelFile: "f", RootFS: "r"}}
	require.Equal(t, image.OCI, Host{}.image(image))
	h := Host{
		Image:  firerunner.OCIImage{Kernel: "hk"},
		Images: map[string]firerunner.OCIImage{"a": {RootFS: "ar", Initrd: "ai", InitrdFile: "af"}, "b": {RootFS: "br"}},
	}
	require.Equal(t, firerunner.OCIImage{Kernel: "hk", KernelFile: "f", Initrd: "ai", InitrdFile: "af", RootFS: "ar"}, h.image(image))
}

// TestUserData: cloud-init reads it as YAML, the shell as a script, and nobody finds a secret in it.
func TestUserData(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	text := userData([]Download{{Path: agentPath, URL: "https://files.example.com/fireguest?v=1", SHA256: sum}})
	require.True(t, strings.HasPrefix(text, "#cloud-config\n"))
	var cloud struct {
		WriteFiles []struct{ Path, Permissions, Content string } `yaml:"write_files"`
		RunCmd     [][]string                                    `yaml:"runcmd"`
	}
	require.NoError(t, yaml.Unmarshal([]byte(text), &cloud))
	require.Len(t, cloud.WriteFiles, 2)
	require.Equal(t, agentUnit, cloud.WriteFiles[0].Path)
	require.Contains(t, cloud.WriteFiles[0].Content, "ExecStart="+agentPath+" --service\n")
	script := cloud.WriteFiles[1]
	require.Equal(t, "0755", script.Permissions)
	require.True(t, strings.HasPrefix(script.Content, "#!/bin/sh\n"))
	require.Contains(t, script.Content, "\nfetch '"+agentPath+"' 'https://files.example.com/fireguest?v=1' '"+sum+"'\n")
	require.Len(t, cloud.RunCmd, 1)
	require.Equal(t, []string{"sh", "-c"}, cloud.RunCmd[0][:2])
	shellParses(t, script.Content)
	shellParses(t, cloud.RunCmd[0][2])
}

func TestDownload(t *testing.T) {
	good := Download{Path: "/usr/local/bin/x", URL: "https://files.example.com/x", SHA256: strings.Repeat("0", 64)}
	require.NoError(t, good.check())
	for name, change := range map[string]func(*Download){
		"no path":           func(d *Download) { d.Path = "" },
		"a relative path":   func(d *Download) { d.Path = "x" },
		"a path that leads": func(d *Download) { d.Path = "/usr/../x" },
		"a quote in a path": func(d *Download) { d.Path = "/x'y" },
		"no URL":            func(d *Download) { d.URL = "" },
		"another scheme":    func(d *Download) { d.URL = "file:///etc/passwd" },
		"a password":        func(d *Download) { d.URL = "https://a:b@files.example.com/x" },
		"a quote in a URL":  func(d *Download) { d.URL = "https://files.example.com/x'; reboot; '" },
		"no sum":            func(d *Download) { d.SHA256 = "" },
		"a sum in capitals": func(d *Download) { d.SHA256 = strings.Repeat("A", 64) },
	} {
		d := good
		change(&d)
		require.Equal(t, firerunner.Invalid, firerunner.CodeOf(d.check()), name)
	}
}

// FuzzTokenHash: what a host tells of a microVM's metadata may be anything.
func FuzzTokenHash(f *testing.F) {
	f.Add(base64.StdEncoding.EncodeToString([]byte(`{"v":1,"token":"x"}`)))
	f.Add("!")
	f.Fuzz(func(t *testing.T, value string) {
		vm := &types.MicroVM{Spec: &types.MicroVMSpec{Metadata: map[string]string{firerunnerKey: value}}}
		if hash, ok := tokenHash(vm); ok {
			require.NotZero(t, hash)
		}
	})
}

// FuzzKernelWords: words come back as they went in, or not at all.
func FuzzKernelWords(f *testing.F) {
	f.Add("quiet root=/dev/vda")
	f.Fuzz(func(t *testing.T, cmdline string) {
		words, err := kernelWords(cmdline)
		if err == nil {
			require.Len(t, strings.Fields(cmdline), len(words))
		}
	})
}
