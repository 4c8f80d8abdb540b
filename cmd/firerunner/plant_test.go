package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/config"
	"github.com/firerunner/firerunner/internal/driver/fake"
	"github.com/firerunner/firerunner/internal/gitlabtest"
)

// plant is a GitLab with one project and a whole daemon in this process, whose microVMs boot nothing and whose jobs take
// as long as the test says. What is operated is real: configuration, database, queue, webhooks, control.
type plant struct {
	t       *testing.T
	dir     string
	file    string // the configuration
	environ []string
	set     []string // key=value, over the file

	gitlab  *gitlabtest.Server
	project *gitlabtest.Project
	hook    gitlabtest.Hook
	token   string

	guests  fake.Config
	port    int // of the webhooks
	daemon  *daemon
	level   slog.LevelVar
	log     *lockedBuffer
	unwatch func() // ends followConfig
}

// plantPatience is for what must come; it is never waited for when all is well.
const plantPatience = 2 * time.Minute

func newPlant(t *testing.T, jobTime time.Duration, more string) *plant {
	t.Helper()
	p := &plant{t: t, dir: t.TempDir(), log: &lockedBuffer{}, guests: fake.Config{JobTime: jobTime, Poll: 50 * time.Millisecond}}
	p.file = filepath.Join(p.dir, "config.yaml")
	p.environ = []string{"HOME=" + p.dir, "PATH=" + os.Getenv("PATH"), "FIRERUNNER_CONFIG=" + p.file}
	var err error
	p.gitlab, err = gitlabtest.Start(gitlabtest.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.gitlab.Close()) })
	p.project, err = p.gitlab.CreateProject("group/app", map[string]string{"README.md": "hello\n"})
	require.NoError(t, err)
	p.token = p.gitlab.CreateToken("create_runner", "manage_runner", "read_api")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p.port = free.Addr().(*net.TCPAddr).Port
	require.NoError(t, free.Close())
	p.hook, err = p.gitlab.AddHook(p.project.ID, gitlabtest.Hook{
		URL: fmt.Sprintf("http://127.0.0.1:%d/webhook", p.port), Token: "hush", JobEvents: true,
	})
	require.NoError(t, err)
	p.write(more)
	t.Cleanup(p.stop)
	return p
}

// configuration is the file's text; more is put behind it.
func (p *plant) configuration(more string) string {
	return fmt.Sprintf(`state_dir: state
driver: fake
server: {host: 127.0.0.1, port: %d, metrics_host: 127.0.0.1, metrics_port: 0}
gitlab: {url: %q, token: %q, webhook_secret: hush}
vm: {max_vcpu: 1, max_memory_mb: 1024, default_vcpu: 1, default_memory_mb: 1024}
%s
`, p.port, p.gitlab.URL(), p.token, more)
}

func (p *plant) write(more string) {
	p.t.Helper()
	require.NoError(p.t, os.WriteFile(p.file, []byte(p.configuration(more)), 0o600))
}

func (p *plant) app() *app {
	return &app{Main: Main{Environ: p.environ, Stderr: p.log}, settings: p.set}
}

func (p *plant) load() (*config.Config, error) { return p.app().load(false) }

func (p *plant) start() {
	p.t.Helper()
	cfg, err := p.load()
	require.NoError(p.t, err)
	p.daemon, err = openDaemon(p.t.Context(), daemonConfig{
		Config: cfg, Logger: slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: &p.level})), Level: &p.level, Fake: p.guests,
	})
	require.NoError(p.t, err)
	require.NoError(p.t, p.daemon.start(p.t.Context()))
}

// follow has the daemon read its configuration again when it changes.
func (p *plant) follow() {
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() { p.daemon.followConfig(ctx, p.file, p.load) })
	p.unwatch = func() { cancel(); following.Wait() }
}

// metric is the value of one series, as a scrape has it.
func (p *plant) metric(series string) string {
	p.t.Helper()
	answer := httptest.NewRecorder()
	p.daemon.metrics.Serve().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(answer.Body.String()) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return "no such series"
}

// webhook delivers a hook about a job that is nobody's and returns the status of the answer.
func (p *plant) webhook(secret, id string) int {
	p.t.Helper()
	body := `{"object_kind": "build", "build_id": 999999, "build_status": "pending", "project_id": 1, "project": {"id": 1, "path_with_namespace": "group/app"}}`
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, p.hook.URL, strings.NewReader(body))
	require.NoError(p.t, err)
	req.Header.Set("X-Gitlab-Event", "Job Hook")
	req.Header.Set("X-Gitlab-Token", secret)
	req.Header.Set("X-Gitlab-Event-UUID", id)
	req.Close = true
	answer, err := http.DefaultClient.Do(req)
	require.NoError(p.t, err)
	require.NoError(p.t, answer.Body.Close())
	return answer.StatusCode
}

// stop ends the daemon as a crash would, as far as one process allows it: nothing is finished.
func (p *plant) stop() {
	if p.unwatch != nil {
		p.unwatch()
		p.unwatch = nil
	}
	if p.daemon != nil {
		p.daemon.close()
		p.daemon = nil
	}
}

// run runs another command beside the daemon.
func (p *plant) run(args ...string) (status int, stdout, stderr string) {
	var out, errs strings.Builder
	status = Main{Args: args, Environ: p.environ, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs}.Run(context.Background())
	return status, out.String(), errs.String()
}

// push starts a pipeline of so many jobs and returns their ids.
func (p *plant) push(jobs int) []int64 {
	p.t.Helper()
	var text strings.Builder
	text.WriteString("default: {tags: [firecracker-1cpu-1gb]}\n")
	for i := range jobs {
		fmt.Fprintf(&text, "job%d:\n  script: ['true']\n", i)
	}
	pipeline, err := p.gitlab.Push(p.project.ID, map[string]string{".gitlab-ci.yml": text.String()})
	require.NoError(p.t, err)
	return pipeline.JobIDs
}

func (p *plant) succeed(jobs []int64) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), plantPatience)
	defer cancel()
	for _, id := range jobs {
		j, err := p.gitlab.WaitJob(ctx, id)
		require.NoError(p.t, err, "job %d\n%s", id, p.log.tail())
		require.Equal(p.t, gitlabtest.StatusSuccess, j.Status)
		require.Len(p.t, j.Handouts, 1)
	}
}

// eventually asks again and again, for what has no signal.
func (p *plant) eventually(what string, done func() bool) {
	p.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(plantPatience); !done(); <-tick.C {
		require.True(p.t, time.Now().Before(end), "did not come: %s\n%s", what, p.log.tail())
	}
}

func (p *plant) runners(q firerunner.RunnerQuery) []firerunner.Runner {
	p.t.Helper()
	all, err := p.daemon.store.Runners(p.t.Context(), q)
	require.NoError(p.t, err)
	return all
}

// killed is the runners that had a job and did not end well.
func (p *plant) killed() (all []firerunner.Runner) {
	for _, r := range p.runners(firerunner.RunnerQuery{}) {
		if r.JobID != 0 && r.Outcome != "" && r.Outcome != firerunner.Succeeded {
			all = append(all, r)
		}
	}
	return all
}

// lockedBuffer is a log that is written and read at once.
type lockedBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

func (b *lockedBuffer) tail() string {
	text := b.String()
	return text[max(0, len(text)-8000):]
}
