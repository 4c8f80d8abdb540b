package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// patient is a machine and a configuration for doctor to look at.
type patient struct {
	t      *testing.T
	dir    string
	gitlab *gitlabtest.Server
	token  string
	keys   map[string]string // further settings
	path   string            // folders of programs
}

func newPatient(t *testing.T, scopes ...string) *patient {
	t.Helper()
	server, err := gitlabtest.Start(gitlabtest.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	return &patient{
		t: t, dir: t.TempDir(), gitlab: server, token: server.CreateToken(scopes...), path: os.Getenv("PATH"),
		keys: map[string]string{"server.host": "127.0.0.1", "server.port": "0", "server.metrics_port": "0", "driver": "fake"},
	}
}

// examine runs doctor and returns its findings by check.
func (p *patient) examine() (status int, found map[string][]finding) {
	p.t.Helper()
	file := filepath.Join(p.dir, "config.yaml")
	text := fmt.Sprintf("gitlab: {url: %q, token: %q, webhook_secret: hush}\nstate_dir: state\n", p.gitlab.URL(), p.token)
	require.NoError(p.t, os.WriteFile(file, []byte(text), 0o600))
	args := []string{"doctor", "--json", "--config", file}
	for key, value := range p.keys {
		args = append(args, "--set", key+"="+value)
	}
	var stdout, stderr bytes.Buffer
	status = Main{Args: args, Environ: []string{"HOME=" + p.dir, "PATH=" + p.path}, Stdout: &stdout, Stderr: &stderr}.Run(context.Background())
	var report struct {
		OK     bool      `json:"ok"`
		Checks []finding `json:"checks"`
	}
	require.NoError(p.t, json.Unmarshal(stdout.Bytes(), &report), "%s%s", &stdout, &stderr)
	require.Equal(p.t, report.OK, status == 0)
	require.NotContains(p.t, stdout.String()+stderr.String(), p.token)
	require.Empty(p.t, stderr.String(), "the report says it all")
	found = map[string][]finding{}
	for _, f := range report.Checks {
		found[f.Check] = append(found[f.Check], f)
		if f.Verdict == fail {
			require.NotEmpty(p.t, f.Remedy, "%s: %s: what is to do?", f.Check, f.Found)
		}
	}
	return status, found
}

func TestDoctorOK(t *testing.T) {
	t.Parallel()
	p := newPatient(t, "create_runner", "manage_runner", "read_api")
	status, found := p.examine()
	require.Equal(t, 0, status, "%v", found)
	require.Equal(t, good, found["gitlab"][0].Verdict)
	require.Contains(t, found["gitlab"][0].Found, "GitLab 19.")
	require.Contains(t, found["gitlab"][1].Found, "create_runner, manage_runner, read_api")
	require.Equal(t, good, found["clock"][0].Verdict)
	require.Contains(t, found["webhook"][0].Found, "is free")

	// The same for people, as it is found.
	var stdout bytes.Buffer
	status = Main{
		Args: []string{
			"doctor", "--config", filepath.Join(p.dir, "config.yaml"),
			"--set", "driver=fake", "--set", "server.host=127.0.0.1", "--set", "server.port=0",
		},
		Environ: []string{"HOME=" + p.dir}, Stdout: &stdout, Stderr: &stdout,
	}.Run(context.Background())
	require.Equal(t, 0, status)
	require.Regexp(t, `(?m)^ok    gitlab          GitLab 19\.`, stdout.String())
}

func TestDoctorErrGitLab(t *testing.T) {
	t.Parallel()
	t.Run("scopes", func(t *testing.T) {
		t.Parallel()
		status, found := newPatient(t, "read_api").examine()
		require.Equal(t, 1, status)
		require.Equal(t, fail, found["gitlab"][1].Verdict)
		require.Contains(t, found["gitlab"][1].Found, "has read_api, but not create_runner, manage_runner")
	})
	t.Run("api is enough", func(t *testing.T) {
		t.Parallel()
		status, _ := newPatient(t, "api").examine()
		require.Equal(t, 0, status)
	})
	t.Run("token", func(t *testing.T) {
		t.Parallel()
		p := newPatient(t, "api")
		p.gitlab.RevokeToken(p.token)
		status, found := p.examine()
		require.Equal(t, 1, status)
		require.Equal(t, fail, found["gitlab"][0].Verdict)
	})
	t.Run("project", func(t *testing.T) {
		t.Parallel()
		p := newPatient(t, "api")
		p.keys["gitlab.projects"] = "7,group/nowhere"
		_, found := p.examine()
		require.Equal(t, fail, found["gitlab"][2].Verdict)
		require.Contains(t, found["gitlab"][2].Found, "group/nowhere")
	})
	t.Run("configuration", func(t *testing.T) {
		t.Parallel()
		p := newPatient(t, "api")
		p.keys["gitlab.url"] = "nothing"
		p.keys["log.level"] = "loud"
		status, found := p.examine()
		require.Equal(t, 1, status)
		require.Len(t, found["configuration"], 2)
	})
}

func TestDoctorClock(t *testing.T) {
	t.Parallel()
	for _, late := range []struct {
		date    string
		verdict verdict
	}{
		{time.Now().Add(-10 * time.Minute).UTC().Format(http.TimeFormat), fail},
		{time.Now().Add(10 * time.Minute).UTC().Format(http.TimeFormat), fail},
		{time.Now().Add(-30 * time.Second).UTC().Format(http.TimeFormat), good},
		{"yesterday", warn},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", late.date)
			w.WriteHeader(http.StatusFound) // GitLab sends its front page's visitors to the login
		}))
		cfg := config.Default()
		cfg.GitLab.URL = server.URL
		e := examination{app: &app{}, cfg: &cfg}
		found := e.clock(context.Background())
		server.Close()
		require.Len(t, found, 1)
		require.Equal(t, late.verdict, found[0].Verdict, "%s: %s", late.date, found[0].Found)
		found = e.clock(context.Background())
		require.Equal(t, warn, found[0].Verdict, "nobody answers")
	}
}

func TestDoctorWebhook(t *testing.T) {
	t.Parallel()
	health := http.StatusOK
	ours := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "/healthz", r.URL.Path)
		w.WriteHeader(health)
	}))
	defer ours.Close()
	_, port, err := net.SplitHostPort(ours.Listener.Addr().String())
	require.NoError(t, err)
	p := newPatient(t, "api")
	p.keys["server.port"], p.keys["server.public_url"] = port, ours.URL+"/"

	status, found := p.examine()
	require.Equal(t, 0, status)
	require.Equal(t, []finding{
		{"webhook", good, "FireRunner listens on 127.0.0.1:" + port, ""},
		{"webhook", good, ours.URL + "/healthz answers", ""},
	}, found["webhook"][:2])

	health = http.StatusNotFound // another program
	status, found = p.examine()
	require.Equal(t, 1, status)
	require.Equal(t, fail, found["webhook"][0].Verdict)
	require.Contains(t, found["webhook"][0].Remedy, "another program has the port")
	require.Equal(t, warn, found["webhook"][1].Verdict)
	require.Contains(t, found["webhook"][1].Found, "it answers 404")
}

func TestDoctorQEMU(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct {
		says    string
		err     error
		verdict verdict
		found   string
	}{
		"as Debian says it": {"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\n", nil, good, "QEMU 7.2.22"},
		"new":               {"QEMU emulator version 10.1.0\n", nil, good, "QEMU 10.1.0"},
		"old":               {"QEMU emulator version 7.1.0\n", nil, fail, "is QEMU 7.1"},
		"older":             {"QEMU emulator version 5.2.0\n", nil, fail, "is QEMU 5.2"},
		"something else":    {"hello", nil, fail, "does not say a version"},
		"broken":            {"", errors.New("exit status 1"), fail, "exit status 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := config.Default()
			e := examination{cfg: &cfg, find: func(program string) (string, error) { return "/bin/" + program, nil }, output: func(_ context.Context, program string, args ...string) ([]byte, error) {
				require.Equal(t, []string{"/bin/qemu-system-x86_64", "--version"}, append([]string{program}, args...))
				return []byte(want.says), want.err
			}}
			found := e.qemu(context.Background())
			require.Len(t, found, 1)
			require.Equal(t, want.verdict, found[0].Verdict, "%v", found)
			require.Contains(t, found[0].Found, want.found)
		})
	}
	said, err := output(context.Background(), "echo", "hello")
	require.NoError(t, err)
	require.Equal(t, "hello\n", string(said))

	cfg := config.Default()
	cfg.VM.QEMU = "/nowhere/qemu"
	found := (&examination{cfg: &cfg, find: exec.LookPath}).qemu(context.Background())
	require.Equal(t, fail, found[0].Verdict)
	require.Contains(t, found[0].Remedy, "apt-get install")
}

func TestDoctorWithoutImage(t *testing.T) {
	t.Parallel()
	p := newPatient(t, "api")
	p.keys["driver"] = "qemu"
	status, found := p.examine()
	require.Equal(t, 1, status)
	require.Equal(t, "firerunner image build --name default --gitlab-runner PATH", found["image"][0].Remedy)
	require.Equal(t, warn, found["accelerator"][0].Verdict)
	require.Contains(t, found["accelerator"][0].Found, "not tried")
	require.NotEmpty(t, found["isolation"])
}

func TestDoctorOwnFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := config.Default()
	cfg.VM.KernelImage, cfg.VM.RootFSImage = filepath.Join(dir, "kernel"), filepath.Join(dir, "rootfs")
	e := examination{cfg: &cfg}
	found := e.image(context.Background())
	require.Equal(t, fail, found[0].Verdict)
	for _, path := range []string{cfg.VM.KernelImage, cfg.VM.RootFSImage} {
		require.NoError(t, os.WriteFile(path, nil, 0o644))
	}
	found = e.image(context.Background())
	require.Equal(t, good, found[0].Verdict)
	probe, err := e.bootable(context.Background())
	require.NoError(t, err)
	require.Equal(t, cfg.VM.KernelImage, probe.Kernel)
}

func TestDoctorRoom(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	cfg.StateDir, cfg.Image.Dir = filepath.Join(t.TempDir(), "not", "yet"), t.TempDir()
	cfg.Complete(config.Machine{Root: true, VCPUs: 4, MemoryMiB: 4096})
	e := examination{cfg: &cfg}
	require.Len(t, e.disk(context.Background()), 2, "the images are elsewhere")

	cfg.VM.DefaultDiskMiB = 1 << 40
	found := e.disk(context.Background())
	require.Equal(t, warn, found[0].Verdict)
	require.Contains(t, found[0].Found, "jobs may write")

	cfg.Scheduler.MemoryMiB = 1 << 40
	found = e.memory(context.Background())
	require.Equal(t, warn, found[0].Verdict)
	require.Contains(t, found[0].Remedy, "lower scheduler.memory_mb")

	meminfo := filepath.Join(t.TempDir(), "meminfo")
	require.NoError(t, os.WriteFile(meminfo, []byte("MemTotal:  8 kB\nMemAvailable:    2097152 kB\n"), 0o600))
	mib, err := memoryAvailable(meminfo)
	require.NoError(t, err)
	require.Equal(t, 2048, mib)
	require.NoError(t, os.WriteFile(meminfo, []byte("MemTotal:  8 kB\n"), 0o600))
	_, err = memoryAvailable(meminfo)
	require.Error(t, err)
	_, err = memoryAvailable("/nowhere")
	require.Error(t, err)
}

func TestTransport(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	a := &app{Main: Main{Environ: []string{"HTTPS_PROXY=http://proxy.example.com:3128", "NO_PROXY=127.0.0.1"}}}
	transport, err := a.transport("")
	require.NoError(t, err)
	request, err := http.NewRequest(http.MethodGet, "https://gitlab.example.com", nil)
	require.NoError(t, err)
	proxy, err := transport.Proxy(request)
	require.NoError(t, err)
	require.Equal(t, "proxy.example.com:3128", proxy.Host)

	ca := filepath.Join(t.TempDir(), "ca.pem")
	_, err = a.transport(ca)
	require.ErrorContains(t, err, "no such file")
	require.NoError(t, os.WriteFile(ca, []byte("nothing"), 0o600))
	_, err = a.transport(ca)
	require.ErrorContains(t, err, "has no certificate")

	cfg := config.Default()
	cfg.GitLab.URL, cfg.GitLab.CAFile = server.URL, ca
	require.NoError(t, os.WriteFile(ca, pemOf(t, server), 0o600))
	found := (&examination{app: a, cfg: &cfg}).clock(context.Background())
	require.Equal(t, good, found[0].Verdict, "%v", found)
	require.False(t, strings.Contains(found[0].Found, "not known"))
}

// pemOf is the certificate of a test server, as a file has it.
func pemOf(t *testing.T, server *httptest.Server) []byte {
	t.Helper()
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}
