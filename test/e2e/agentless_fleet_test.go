package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/flintlock"
	"github.com/firerunner/firerunner/internal/flintlocktest"
	"github.com/firerunner/firerunner/internal/gitlab"
	"github.com/firerunner/firerunner/internal/gitlabrunner"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/internal/image"
	"github.com/firerunner/firerunner/internal/network"
	"github.com/firerunner/firerunner/internal/provision"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

// TestSSHOnFlintlock runs a job in a microVM of a host with flintlockd that has nothing of ours in it. The driver is in
// this process, because the way to the guest is: its network is the test's.
func TestSSHOnFlintlock(t *testing.T) {
	if under.skip != "" {
		t.Skip(under.skip)
	}
	needPlainImage(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	server, err := gitlabtest.Start(gitlabtest.Config{Dir: t.TempDir(), ExternalURL: guestGitLab, TraceUpdateInterval: time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	project, err := server.CreateProject("group/app", map[string]string{"README.md": "# Here\n"})
	require.NoError(t, err)
	pipeline, err := server.Push(project.ID, map[string]string{".gitlab-ci.yml": `
plain:
  tags: [plain]
  variables: {GIT_STRATEGY: none}
  script:
    - |
      id -un
      if timeout 5 bash -c 'exec 3<>/dev/tcp/169.254.169.254/80' 2>/dev/null; then echo "metadata"; else echo "no metadata"; fi
      cat /sys/class/net/eth0/operstate
      cat /etc/ssh/ssh_host_ed25519_key 2>/dev/null || echo "no host key"
`})
	require.NoError(t, err)
	token := server.CreateToken("create_runner", "manage_runner", "read_api")
	runner := newRunner(t, server.URL(), token, project.ID)

	host, plain, guest := plainHost(t, strings.TrimPrefix(server.URL(), "http://"))
	store, err := sqlite.Open(ctx, sqlite.Config{Path: filepath.Join(t.TempDir(), "ledger.db"), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	maker := provision.Maker{
		Settings: gitlabrunner.Settings, Arguments: gitlabrunner.Arguments,
		Parse: func(line []byte) (firerunner.GuestReport, bool) { return gitlabrunner.ParseLine(line).Report() },
	}
	driver, err := flintlock.New(ctx, flintlock.Config{
		Namespace: "fr-0123456789ab", Ledger: store, GuestURL: guestEndpoint, GuestFingerprint: "sha256:" + strings.Repeat("0", 64),
		Hosts:   []flintlock.Host{{Name: "h1", Endpoint: host.Addr(), TLS: flintlock.TLS{Insecure: true}}},
		Outside: maker.Outside, Logger: slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
			if address != "10.42.0.100:22" {
				return nil, errors.New("that is not the guest: " + address)
			}
			select {
			case n := <-guest:
				guest <- n
				return n.Dial(ctx, 22)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, driver.Close()) })

	text, err := os.ReadFile(filepath.Join(filepath.Dir(under.released), "gitlab-runner"))
	require.NoError(t, err)
	sum := sha256.Sum256(text)
	began := time.Now()
	_, err = driver.Create(ctx, firerunner.MicroVMSpec{
		ID: "plain", Host: "h1", Size: firerunner.Size{VCPUs: 1, MemoryMiB: 1024}, Image: plain, Deadline: time.Now().Add(time.Hour),
		Address:   firerunner.GuestNetwork{Address: "10.42.0.100/24", Gateway: "10.42.0.1", DNS: "10.42.0.1"},
		Provision: firerunner.ProvisionSSH,
		SSH: firerunner.SSHAccess{
			RunnerPath: filepath.Join(filepath.Dir(under.released), "gitlab-runner"), RunnerSHA256: hex.EncodeToString(sum[:]),
			ConnectTimeout: patience, StepTimeout: 2 * time.Minute,
		},
		Start: firerunner.GuestStart{GitLabURL: guestGitLab, Token: runner, Name: "firerunner-plain", WaitTimeout: patience},
	})
	require.NoError(t, err)
	t.Parallel() // only now: such a system takes long to boot, and does while others are tested
	var kinds []firerunner.ReportKind
	require.NoError(t, driver.Follow(ctx, "plain", 0, func(r firerunner.GuestReport) error {
		t.Logf("%6.1fs %s %s", time.Since(began).Seconds(), r.Kind, r.Message)
		if r.Kind != firerunner.ReportNotice {
			kinds = append(kinds, r.Kind)
		}
		return nil
	}))
	require.Equal(t, []firerunner.ReportKind{
		firerunner.ReportHello, firerunner.ReportStarted, firerunner.ReportTookJob, firerunner.ReportJobDone,
		firerunner.ReportRunnerExited, firerunner.ReportExited,
	}, kinds)
	job := server.Jobs(gitlabtest.JobFilter{PipelineID: pipeline.ID})[0]
	said := lineStart.ReplaceAllString(server.Trace(job.ID), "")
	require.Equal(t, gitlabtest.StatusSuccess, job.Status, said)
	for _, line := range []string{"\nci\n", "\nno metadata\n", "\ndown\n", "\nno host key\n"} {
		require.Contains(t, said, line)
	}
	require.NoError(t, driver.Destroy(ctx, "plain"))
	require.Empty(t, host.VMs())
	require.Zero(t, host.Running())
}

// newRunner makes a runner in GitLab as FireRunner does.
func newRunner(t *testing.T, url, token string, project int64) firerunner.Secret {
	t.Helper()
	client, err := gitlab.New(gitlab.Config{URL: url, Token: gitlab.StaticToken(firerunner.Secret(token))})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	made, err := client.CreateRunner(t.Context(), firerunner.CredentialRequest{
		ProjectID: project, Tags: firerunner.NewTagSet("plain"), Description: "a test", MaxTimeout: time.Hour,
	})
	require.NoError(t, err)
	return made.Token
}

// plainHost starts a host that pulls the plain image from a registry of the test's own, and returns the image as the
// host has it, and the networks of its guests as they are made.
func plainHost(t *testing.T, gitlabAt string) (*flintlocktest.Server, firerunner.Image, chan *network.Network) {
	t.Helper()
	dir := t.TempDir()
	web := httptest.NewServer(registry.New(registry.WithBlobHandler(registry.NewDiskBlobHandler(t.TempDir())), registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(web.Close)
	push := exec.Command(under.released, "image", "push", plainImage, "--json", "--to", strings.TrimPrefix(web.URL, "http://")+"/firerunner/plain:test")
	push.Env, push.Stderr = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "FIRERUNNER_IMAGE_DIR=" + under.imageDir}, os.Stderr
	out, err := push.Output()
	require.NoError(t, err)
	var pushed image.Pushed
	require.NoError(t, json.Unmarshal(out, &pushed))
	plain, err := (&image.Store{Dir: under.imageDir}).Resolve(t.Context(), plainImage)
	require.NoError(t, err)
	plain.OCI = firerunner.OCIImage{
		Kernel: pushed.Kernel, KernelFile: pushed.KernelFile, Initrd: pushed.Kernel, InitrdFile: pushed.InitrdFile, RootFS: pushed.RootFS,
	}
	made := make(chan *network.Network, 1)
	server, err := flintlocktest.Start(flintlocktest.Config{
		Dir: filepath.Join(dir), Images: &flintlocktest.Registry{CacheDir: t.TempDir()},
		VMM: &flintlocktest.QEMU{Accel: under.accel, Network: func(_ flintlocktest.Machine, i flintlocktest.Interface) (flintlocktest.Link, error) {
			address, err := netip.ParsePrefix(i.Address)
			if err != nil {
				return flintlocktest.Link{}, err
			}
			mac, err := net.ParseMAC(i.GuestMAC)
			if err != nil {
				return flintlocktest.Link{}, err
			}
			n, err := network.New(network.Config{Guest: address.Addr(), GuestMAC: mac, MTU: 1500, Policy: firerunner.NetworkPolicy{
				Routes: []firerunner.NetworkRoute{{Name: strings.TrimPrefix(guestGitLab, "http://"), Port: 80, Dial: gitlabAt}},
			}})
			if err != nil {
				return flintlocktest.Link{}, err
			}
			made <- n
			return flintlocktest.Link{MAC: i.GuestMAC, Serve: n.Serve, Close: n.Close}, nil
		}},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	return server, plain, made
}
