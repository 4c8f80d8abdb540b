package e2e

import (
	"context"
	crand "crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// guestGitLab is GitLab's address in guests: a name that only their own DNS knows.
const guestGitLab = "http://gitlab.firerunner.internal"

// options are how a site differs from the plain one.
type options struct {
	slots    int      // most microVMs at once; 0 = 1, because two tests run at a time
	settings []string // key=value, as --set takes them
	gitlab   func(*gitlabtest.Config)
	files    map[string]string // in the repository
	fleet    *fleet            // hosts that carry the microVMs; nil: this machine does
	config   string            // more of the configuration file
	private  *authority        // GitLab speaks HTTPS with a certificate of this; nil: plain HTTP
	hook     string            // where GitLab's webhooks go; empty: to the daemon
	database string            // of PostgreSQL, by its URL; empty: a file in the state folder
	beside   *site             // another controller of that database, whose GitLab this one has too; nil: there is none yet
}

// site is a GitLab with one project, and a FireRunner that serves it. Its methods are for the test's own goroutine.
type site struct {
	t        *testing.T
	dir      string // everything of FireRunner is in here, or has it in its command line, environment or folder
	settings []string
	ca       string // file with GitLab's CA; empty: it has none
	guestURL string

	gitlab  *gitlabtest.Server
	project *gitlabtest.Project
	hook    gitlabtest.Hook
	token   string // FireRunner's own, for GitLab's API
	signing string // what webhooks are signed with

	webhooks, metrics int    // ports
	program           string // of the daemon
	daemon            *daemon
	store             truth
	mark              string // of the installation, where its state folder's is not it
	observer          *observer
}

// newSite starts a GitLab and a daemon. When the test ends it holds the site to all that must be true after a job,
// ends it, and looks for what is left.
func newSite(t *testing.T, o options) *site {
	t.Helper()
	if under.skip != "" {
		t.Skip(under.skip)
	}
	dir, err := os.MkdirTemp("/tmp", "fr-") // short, for unix sockets; t.TempDir cannot be passed by other users
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o711))
	s := &site{t: t, dir: dir, program: under.daemon, settings: o.settings, guestURL: guestGitLab, webhooks: freePort(t), metrics: freePort(t)}
	if o.beside == nil {
		s.startGitLab(o)
	} else {
		s.join(o.beside, o.hook)
	}
	s.writeConfig(max(o.slots, 1), o.fleet, o.config+s.keepIn(o.database))
	s.observer = observe(s)
	t.Cleanup(s.end)
	s.start()
	s.open(o.database)
	return s
}

// run runs one of several scenarios on a site. The next needs what this one leaves, so the first failure is the last.
func (s *site) run(name string, scenario func(t *testing.T)) {
	outer := s.t
	ok := outer.Run(name, func(t *testing.T) {
		s.t = t
		defer func() { s.t = outer }()
		scenario(t)
		s.quiet()
	})
	if !ok {
		outer.FailNow()
	}
}

func (s *site) startGitLab(o options) {
	cfg := gitlabtest.Config{Dir: s.t.TempDir(), ExternalURL: guestGitLab, TraceUpdateInterval: time.Second}
	if o.private != nil {
		cfg.Certificate, cfg.ExternalURL = &o.private.certificate, privateGitLab
		s.ca, s.guestURL = o.private.file, privateGitLab
	}
	if o.gitlab != nil {
		o.gitlab(&cfg)
	}
	var err error
	s.gitlab, err = gitlabtest.Start(cfg)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, s.gitlab.Close()) })
	var key [32]byte
	_, err = crand.Read(key[:])
	require.NoError(s.t, err)
	s.signing = "whsec_" + base64.StdEncoding.EncodeToString(key[:])
	s.token = s.gitlab.CreateToken("create_runner", "manage_runner", "read_api")
	files := map[string]string{"README.md": "# A repository for tests\n"}
	for name, text := range o.files {
		files[name] = text
	}
	s.project, err = s.gitlab.CreateProject("group/app", files)
	require.NoError(s.t, err)
	if o.hook == "" {
		o.hook = s.webhook()
	}
	s.addHook(o.hook)
}

// writeConfig writes the configuration as an operator would. The sweep is so slow that it does nothing in a test that
// does not ask for it, and every deadline so long that a busy machine does not meet it.
func (s *site) writeConfig(slots int, hosts *fleet, more string) {
	require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, "token"), []byte(s.token+"\n"), 0o600))
	require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, "signing"), []byte(s.signing+"\n"), 0o600))
	text := fmt.Sprintf(`
state_dir: %s
server: {host: 127.0.0.1, port: %d, metrics_port: %d}
gitlab: {url: %q, guest_url: %q, ca_file: %q, token_file: token, signing_token_file: signing}
image: {dir: %s}
vm: {accel: %s, default_vcpu: 1, default_memory_mb: 1024, max_vcpu: 2, max_memory_mb: 2048}
scheduler: {worker_count: %d, vcpus: 8, memory_mb: 8192}
deadlines: {placed: 8m, creating: 8m, booting: 8m, ready: 8m, job_timeout: 20m, running_grace: 1m}
sweep: {interval: 1h}
log: {level: debug, format: json}
shutdown_grace: 3m
`, s.state(), s.webhooks, s.metrics, s.gitlab.URL(), s.guestURL, s.ca, under.imageDir, under.accel, slots)
	text += more
	if hosts != nil {
		text += hosts.config
		hosts.gitlab = strings.TrimPrefix(s.gitlab.URL(), "http://")
	}
	require.NoError(s.t, os.WriteFile(s.configFile(), []byte(text), 0o600))
}

func (s *site) configFile() string { return filepath.Join(s.dir, "config.yaml") }

// state is a path in the daemon's state folder.
func (s *site) state(path ...string) string {
	return filepath.Join(append([]string{s.dir, "state"}, path...)...)
}

// push commits a .gitlab-ci.yml and returns the pipeline that comes of it.
func (s *site) push(ci string) *gitlabtest.Pipeline {
	s.t.Helper()
	p, err := s.gitlab.Push(s.project.ID, map[string]string{".gitlab-ci.yml": ci})
	require.NoError(s.t, err)
	require.NotNil(s.t, p)
	return p
}

// ci is a file with jobs that ask for the smallest size and, unless they say otherwise, clone nothing.
func ci(jobs string) string {
	return "default: {tags: [firecracker-1cpu-1gb]}\nvariables: {GIT_STRATEGY: none}\n" + jobs
}

// job finds a job of a pipeline by its name.
func (s *site) job(p *gitlabtest.Pipeline, name string) gitlabtest.Job {
	s.t.Helper()
	jobs := s.gitlab.Jobs(gitlabtest.JobFilter{PipelineID: p.ID, Name: name})
	require.Len(s.t, jobs, 1, "jobs named %s", name)
	return jobs[0]
}

// only pushes a file with one job and returns the job.
func (s *site) only(jobs string) gitlabtest.Job {
	s.t.Helper()
	p := s.push(ci(jobs))
	require.Len(s.t, p.JobIDs, 1)
	j, ok := s.gitlab.Job(p.JobIDs[0])
	require.True(s.t, ok)
	return j
}

// finished waits for the end of a job.
func (s *site) finished(id int64) gitlabtest.Job {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	j, err := s.gitlab.WaitJob(ctx, id)
	require.NoError(s.t, err, "job %d is %s", id, j.Status)
	return j
}

// succeeded waits for the end of a job, which must be good.
func (s *site) succeeded(id int64) gitlabtest.Job {
	s.t.Helper()
	j := s.finished(id)
	require.Equal(s.t, gitlabtest.StatusSuccess, j.Status, "job %s: %s\n%s", j.Name, j.FailureReason, s.trace(id))
	return j
}

// says waits until the job's log has the text.
func (s *site) says(id int64, text string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	require.NoError(s.t, s.gitlab.WaitTrace(ctx, id, text), "the log of job %d:\n%s", id, s.gitlab.Trace(id))
}

// lineStart is what gitlab-runner puts before each line of a job's log: time, stream, and whether the line goes on.
// https://docs.gitlab.com/ci/jobs/job_logs/
var lineStart = regexp.MustCompile(`(?m)^\S+Z [0-9a-f]{2}[OE][ +]`)

// trace is a job's log as people see it.
func (s *site) trace(id int64) string { return lineStart.ReplaceAllString(s.gitlab.Trace(id), "") }

// eventually waits until done, which asks another process and so has to ask again and again.
func (s *site) eventually(what string, done func() bool) {
	s.t.Helper()
	require.True(s.t, within(patience, done), "did not come in %s: %s", patience, what)
}

func within(limit time.Duration, done func() bool) bool {
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); ; <-tick.C {
		if done() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// freePort returns a port that a daemon can have, and have again when it is started again. It is below those that the
// system gives to outgoing connections (32768 on Linux), any of which may be taken a moment later.
func freePort(t *testing.T) int {
	t.Helper()
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		require.NoError(t, l.Close())
		return port
	}
	t.Fatal("no free port")
	return 0
}

// tail is the end of a text, for the log of a test that failed.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func readAll(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, _ := io.ReadAll(f)
	return string(b)
}
