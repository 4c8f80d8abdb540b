package control_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/control"
	"github.com/firerunner/firerunner/internal/driver/fake"
	"github.com/firerunner/firerunner/internal/gitlab"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/internal/intake"
	"github.com/firerunner/firerunner/internal/queue"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

const (
	small = "firecracker-1cpu-1gb"
	large = "firecracker-2cpu-4gb"

	patience = 20 * time.Second // for what must happen; nothing takes nearly as long
)

// options change a house before it is built.
type options struct {
	noHooks   bool
	script    script
	change    func(*control.Config)
	host      *firerunner.Host
	driver    fake.Config // Guest is the house's
	retryWait time.Duration
}

// house is everything around control, all of it real but the microVMs: SQLite, River, the emulated GitLab over HTTP,
// webhooks through the intake.
type house struct {
	t       testing.TB
	opts    options
	gitlab  *gitlabtest.Server
	project *gitlabtest.Project
	api     *gitlab.Client
	store   *sqlite.Store
	steps   *queue.Enqueuer
	driver  *fake.Driver
	http    *http.Client
	seals   *firerunner.SealKeys
	offset  atomic.Int64 // of the clock

	mu      sync.Mutex
	changed chan struct{} // closed at the next change of the store
	played  script
	onTap   tap
	guests  []*guest

	*daemon
}

// daemon is what dies in a crash: control and the queue that runs its steps.
type daemon struct {
	control *control.Control
	queue   *queue.Queue
	dead    atomic.Bool
}

func newHouse(t testing.TB, opts options) *house {
	t.Helper()
	h := &house{t: t, opts: opts, changed: make(chan struct{}), played: opts.script}
	if h.played == nil {
		h.played = work
	}
	var err error
	h.gitlab, err = gitlabtest.Start(gitlabtest.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.gitlab.Close()) })
	h.project, err = h.gitlab.CreateProject("group/app", map[string]string{"README.md": "hello\n"})
	require.NoError(t, err)
	wait := opts.retryWait
	if wait == 0 {
		wait = time.Millisecond
	}
	token := gitlab.StaticToken(firerunner.Secret(h.gitlab.CreateToken("api", "create_runner")))
	h.seals = firerunner.NewSealKeys(token)
	h.api, err = gitlab.New(gitlab.Config{URL: h.gitlab.URL(), Token: token, RetryWait: wait})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.api.Close()) })

	h.steps, err = queue.NewEnqueuer()
	require.NoError(t, err)
	quiet := slog.New(slog.DiscardHandler)
	h.store, err = sqlite.Open(t.Context(), sqlite.Config{
		Path: freshFile(t), Enqueue: h.steps.Enqueue, Enqueued: h.steps.Wake, Logger: quiet,
		Migrate: []func(context.Context, *sql.DB) error{queue.Migrate},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.store.Close()) })

	transport := &http.Transport{}
	h.http = &http.Client{Transport: transport}
	opts.driver.Guest = h.guest
	h.driver = fake.New(opts.driver)
	t.Cleanup(func() {
		require.NoError(t, h.driver.Close())
		transport.CloseIdleConnections()
	})

	host := firerunner.Host{Name: "here", Driver: "fake", VCPUs: 64, MemoryMiB: 65536, Slots: 64}
	if opts.host != nil {
		host = *opts.host
	}
	h.saveHost(host)
	if !opts.noHooks {
		h.hooks()
	}
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

// template is a store's file with its tables and nothing in them: making them is most of the work of a short test.
var template = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "control-test-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "store.db")
	store, err := sqlite.Open(context.Background(), sqlite.Config{Path: path, Migrate: []func(context.Context, *sql.DB) error{queue.Migrate}})
	if err != nil {
		return nil, err
	}
	if err := store.Close(); err != nil { // leaves no write-ahead log behind
		return nil, err
	}
	return os.ReadFile(path)
})

// freshFile returns the path of a copy of the template. It is in memory where there is a place for that: what these
// tests crash is the process, not the machine.
func freshFile(t testing.TB) string {
	t.Helper()
	tables, err := template()
	require.NoError(t, err)
	dir, err := os.MkdirTemp("/dev/shm", "control-test-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	path := filepath.Join(dir, "store.db")
	require.NoError(t, os.WriteFile(path, tables, 0o600))
	return path
}

// hooks lets GitLab tell the intake of every job.
func (h *house) hooks() {
	in, err := intake.New(intake.Config{Store: h.store, AllowUnauthenticated: true, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(h.t, err)
	srv := httptest.NewServer(in)
	h.t.Cleanup(srv.Close)
	_, err = h.gitlab.AddHook(h.project.ID, gitlabtest.Hook{URL: srv.URL, JobEvents: true})
	require.NoError(h.t, err)
}

// start starts a daemon on what is there, without its periodic tasks.
func (h *house) start() {
	h.t.Helper()
	h.startWith(false)
}

func (h *house) startWith(loops bool) {
	h.t.Helper()
	d := &daemon{}
	tap := func(ctx context.Context, point string) error { return h.pass(ctx, d, point) }
	cfg := control.Config{
		Store: tapStore{h.store, tap, h.touch}, GitLab: tapGitLab{h.api, tap}, Driver: tapDriver{h.driver, tap},
		Image: func(context.Context, string) (firerunner.Image, error) {
			return firerunner.Image{Name: "debian", Digest: "sha256:1"}, nil
		},
		Installation: "inst1", Profiles: profiles(), GuestURL: h.gitlab.URL(),
		SweepInterval: time.Hour, ReapInterval: time.Hour, Now: h.now, StopGrace: 5 * time.Second, SealKeys: h.seals,
	}
	if h.opts.change != nil {
		h.opts.change(&cfg)
	}
	var err error
	d.control, err = control.New(cfg)
	require.NoError(h.t, err)
	d.queue, err = queue.New(queue.Config{
		DB: h.store.DB(), Enqueuer: h.steps, Steps: d.control.Steps(), Sole: true, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(h.t, err)
	h.mu.Lock()
	h.daemon = d
	h.mu.Unlock()
	require.NoError(h.t, d.queue.Start(context.Background()))
	if loops {
		require.NoError(h.t, d.control.Start(context.Background()))
	} else {
		require.NoError(h.t, d.control.StartStill(context.Background()))
	}
}

// stop ends the daemon. microVMs live on.
func (h *house) stop() {
	h.daemon.control.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // steps do not get time
	require.NoError(h.t, h.daemon.queue.Stop(ctx))
}

// restart is a crash: from now on the old daemon reaches nothing; a new one takes over.
func (h *house) restart() {
	h.t.Helper()
	h.daemon.dead.Store(true)
	h.stop()
	h.start()
}

// pass is every tap of every daemon. A dead one's calls hang until they are cancelled.
func (h *house) pass(ctx context.Context, d *daemon, point string) error {
	h.mu.Lock()
	onTap := h.onTap
	h.mu.Unlock()
	if onTap != nil && !d.dead.Load() {
		if err := onTap(ctx, point); err != nil {
			return err
		}
	}
	if d.dead.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (h *house) tapping(t tap) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.onTap = t
}

func (h *house) play(s script) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.played = s
}

// guest is the fake driver's GuestFunc.
func (h *house) guest(ctx context.Context, spec firerunner.MicroVMSpec, report func(firerunner.GuestReport), orders <-chan firerunner.GuestOrder) error {
	g := &guest{ctx: ctx, spec: spec, say: report, http: h.http, house: h, ordered: make(chan struct{})}
	h.mu.Lock()
	h.guests = append(h.guests, g)
	s := h.played
	h.mu.Unlock()
	done := make(chan struct{})
	var listening sync.WaitGroup
	listening.Go(func() { g.listen(orders, done) })
	defer listening.Wait()
	defer close(done)
	return s(g)
}

func (h *house) now() time.Time { return time.Now().Add(time.Duration(h.offset.Load())) }

// pass time.
func (h *house) later(d time.Duration) { h.offset.Add(int64(d)) }

func (h *house) touch() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.changed)
	h.changed = make(chan struct{})
}

// until waits until done holds; it looks again after each change of the store.
func (h *house) until(what string, done func() bool) {
	h.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	again := time.NewTicker(50 * time.Millisecond) // what is not in the store makes no change there
	defer again.Stop()
	for {
		h.mu.Lock()
		changed := h.changed
		h.mu.Unlock()
		if done() {
			return
		}
		select {
		case <-changed:
		case <-again.C:
		case <-timer.C:
			require.FailNow(h.t, "it did not happen: "+what, h.describe())
		}
	}
}

// describe is the state of everything, for failures.
func (h *house) describe() string {
	var b strings.Builder
	ctx := context.Background()
	runners, _ := h.store.Runners(ctx, firerunner.RunnerQuery{})
	for _, r := range runners {
		fmt.Fprintf(&b, "runner %s %s %s outcome=%s reason=%s gitlab=%d job=%d: %s\n", r.ID, r.State, r.Desired, r.Outcome, r.Reason, r.GitLabID, r.JobID, r.Message)
	}
	jobs, _ := h.store.Jobs(ctx, firerunner.JobQuery{})
	for _, j := range jobs {
		fmt.Fprintf(&b, "job %d %s runner=%q gitlab=%d refused=%s\n", j.ID, j.Status, j.RunnerID, j.GitLabID, j.Refused)
	}
	for _, j := range h.gitlab.Jobs(gitlabtest.JobFilter{}) {
		fmt.Fprintf(&b, "gitlab job %d %s runner=%d handouts=%d\n", j.ID, j.Status, j.RunnerID, len(j.Handouts))
	}
	for _, r := range h.gitlab.Runners() {
		fmt.Fprintf(&b, "gitlab runner %d %q paused=%t\n", r.ID, r.Description, r.Paused)
	}
	vms, _ := h.driver.List(ctx)
	for _, vm := range vms {
		fmt.Fprintf(&b, "microVM %s alive=%t\n", vm.ID, vm.Alive)
	}
	depth, _ := h.daemon.queue.Depth(ctx)
	fmt.Fprintf(&b, "queue %v\n", depth)
	events, _ := h.store.Events(ctx, firerunner.EventQuery{})
	for _, e := range events {
		fmt.Fprintf(&b, "%s %s runner=%s job=%d %s>%s %s %s %s\n", e.At.Format("05.000"), e.Kind, e.RunnerID, e.JobID, e.From, e.To, e.Actor, e.Reason, e.Message)
	}
	return b.String()
}

// push makes a pipeline with one job for each set of tags and returns the jobs' ids in order.
func (h *house) push(tags ...string) []int64 {
	h.t.Helper()
	var ci strings.Builder
	for i, t := range tags {
		fmt.Fprintf(&ci, "job%d:\n  tags: [%s]\n  script: [\"true\"]\n", i, t)
	}
	p, err := h.gitlab.Push(h.project.ID, map[string]string{".gitlab-ci.yml": ci.String()})
	require.NoError(h.t, err)
	return slices.Clone(p.JobIDs)
}

// hint is what a webhook leaves behind.
func (h *house) hint(jobIDs ...int64) {
	h.t.Helper()
	h.update(func(ctx context.Context, tx firerunner.Tx) error {
		for _, id := range jobIDs {
			if err := tx.Enqueue(ctx, firerunner.Step{Kind: firerunner.StepReadJob, ProjectID: h.project.ID, JobID: id}); err != nil {
				return err
			}
		}
		return nil
	})
}

func (h *house) update(do func(context.Context, firerunner.Tx) error) {
	h.t.Helper()
	ctx := context.Background()
	require.NoError(h.t, h.store.Update(ctx, func(tx firerunner.Tx) error { return do(ctx, tx) }))
	h.touch()
}

func (h *house) saveHost(host firerunner.Host) {
	h.update(func(ctx context.Context, tx firerunner.Tx) error { return tx.SaveHost(ctx, host) })
}

// runners are all of them, oldest first.
func (h *house) runners() []firerunner.Runner {
	rs, err := h.store.Runners(context.Background(), firerunner.RunnerQuery{})
	require.NoError(h.t, err)
	return rs
}

func (h *house) live() []firerunner.Runner {
	return slices.DeleteFunc(h.runners(), func(r firerunner.Runner) bool { return !r.Live() })
}

// awaitRunner waits until there is a runner that is as it should be.
func (h *house) awaitRunner(what string, is func(firerunner.Runner) bool) (found firerunner.Runner) {
	h.t.Helper()
	h.until("a runner that is "+what, func() bool {
		for _, r := range h.runners() {
			if is(r) {
				found = r
				return true
			}
		}
		return false
	})
	return found
}

func inState(s firerunner.State) func(firerunner.Runner) bool {
	return func(r firerunner.Runner) bool { return r.State == s }
}

// awaitJobs waits until jobs have a status in GitLab.
func (h *house) awaitJobs(status gitlabtest.Status, ids ...int64) {
	h.t.Helper()
	h.until(fmt.Sprintf("jobs %v are %s", ids, status), func() bool {
		for _, id := range ids {
			if j, ok := h.gitlab.Job(id); !ok || j.Status != status {
				return false
			}
		}
		return true
	})
}

// nothingLeft waits until nothing of any runner is anywhere but in the store, and demand is met.
func (h *house) nothingLeft() {
	h.t.Helper()
	h.until("nothing is left", func() bool {
		vms, err := h.driver.List(context.Background())
		require.NoError(h.t, err)
		return len(h.live()) == 0 && len(vms) == 0 && len(h.ours()) == 0
	})
}

// ours are the runners in GitLab that this installation made.
func (h *house) ours() []gitlabtest.Runner {
	return slices.DeleteFunc(h.gitlab.Runners(), func(r gitlabtest.Runner) bool { return !strings.HasPrefix(r.Description, "firerunner inst1 ") })
}

// ranOnce checks that each job was given away exactly once.
func (h *house) ranOnce(ids ...int64) {
	h.t.Helper()
	for _, id := range ids {
		j, ok := h.gitlab.Job(id)
		require.True(h.t, ok)
		require.Len(h.t, j.Handouts, 1, "job %d", id)
	}
}

// events are those of one kind, oldest first.
func (h *house) events(kinds ...firerunner.EventKind) []firerunner.Event {
	es, err := h.store.Events(context.Background(), firerunner.EventQuery{Kinds: kinds})
	require.NoError(h.t, err)
	return es
}

// profiles serve jobs by size, and by two profiles' tags.
func profiles() []firerunner.Profile {
	limits := firerunner.SizeLimits{Min: firerunner.Size{VCPUs: 1, MemoryMiB: 512}, Max: firerunner.Size{VCPUs: 4, MemoryMiB: 8192}}
	size := firerunner.Size{VCPUs: 1, MemoryMiB: 1024, DiskMiB: 4096}
	return []firerunner.Profile{
		{Name: firerunner.DefaultProfile, Image: "debian", Default: size, Limits: limits},
		{Name: "gpu", Tags: []string{"gpu", "cuda"}, Image: "debian", Default: size, Limits: limits},
		{Name: "public", Tags: []string{"public"}, Image: "debian", Default: size, Limits: limits, Public: true},
	}
}

// receive takes one value within patience.
func receive[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		require.FailNow(t, "nothing came")
		panic("unreachable")
	}
}
