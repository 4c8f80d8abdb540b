package bench

import (
	"context"
	"database/sql"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/control"
	"github.com/firerunner/firerunner/internal/driver/fake"
	"github.com/firerunner/firerunner/internal/gitlab"
	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/internal/intake"
	"github.com/firerunner/firerunner/internal/peers"
	"github.com/firerunner/firerunner/internal/queue"
	"github.com/firerunner/firerunner/internal/store/postgres"
	"github.com/firerunner/firerunner/internal/store/postgrestest"
	"github.com/firerunner/firerunner/internal/store/sqlite"
)

const (
	signing = "whsec_dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHRlc3Q="
	size    = "firecracker-1cpu-1gb"
	slots   = 64

	controllerName = "bench"
)

// plane is the whole control plane, wired as the daemon wires it: everything is real but the microVMs, and GitLab, which
// is the emulator over HTTP.
type plane struct {
	gitlab  *gitlabtest.Server
	project *gitlabtest.Project
	store   firerunner.Store
	control *control.Control
	webhook string
	seen    watch

	database func() (time.Duration, error) // see engine
}

// watch notes when each runner came into each state, from the events as they are committed.
type watch struct {
	mu      sync.Mutex
	running map[int64]time.Time // by job
	gone    map[int64]time.Time
	changed chan struct{}
}

func (w *watch) record(events []firerunner.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range events {
		switch {
		case e.Kind == firerunner.EventTookJob:
			w.running[e.JobID] = time.Now()
		case e.Kind == firerunner.EventMoved && e.To == firerunner.Gone:
			w.gone[e.JobID] = time.Now()
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
	}
}

// engine opens a store on an empty database, and says where the queue finds it, and what processor time the database uses
// that is not this process's: nil if there is none.
type engine func(b *testing.B, enqueuer *queue.Enqueuer, committed func([]firerunner.Event)) (firerunner.Store, queue.Config, func() (time.Duration, error))

func onSQLite(b *testing.B, enqueuer *queue.Enqueuer, committed func([]firerunner.Event)) (firerunner.Store, queue.Config, func() (time.Duration, error)) {
	store, err := sqlite.Open(b.Context(), sqlite.Config{
		Path: filepath.Join(b.TempDir(), "store.db"), Enqueue: enqueuer.Enqueue, Enqueued: enqueuer.Wake,
		Logger: slog.New(slog.DiscardHandler), Migrate: []func(context.Context, *sql.DB) error{queue.Migrate}, Committed: committed,
	})
	require.NoError(b, err)
	return store, queue.Config{DB: store.DB()}, nil
}

// onPostgres has a server of its own, whose commits wait for the disk as in earnest.
func onPostgres(b *testing.B, enqueuer *queue.Enqueuer, committed func([]firerunner.Event)) (firerunner.Store, queue.Config, func() (time.Duration, error)) {
	server := postgrestest.Start(b, postgrestest.Options{Durable: true})
	store, err := postgres.Open(b.Context(), postgres.Config{
		URL: firerunner.Secret(server.URL("postgres")), Enqueue: enqueuer.EnqueuePostgres, Enqueued: enqueuer.Wake, Connections: 16,
		Logger: slog.New(slog.DiscardHandler), Migrate: []func(context.Context, *pgxpool.Pool) error{queue.MigratePostgres}, Committed: committed,
	})
	require.NoError(b, err)
	return store, queue.Config{Pool: store.Pool()}, server.ProcessorTime
}

// newPlane starts everything. Parts end in the reverse order with the benchmark.
func newPlane(b *testing.B, on engine) *plane {
	b.Helper()
	p := &plane{seen: watch{running: map[int64]time.Time{}, gone: map[int64]time.Time{}, changed: make(chan struct{}, 1)}}
	quiet := slog.New(slog.DiscardHandler)
	ctx := context.Background()
	var err error
	p.gitlab, err = gitlabtest.Start(gitlabtest.Config{Dir: b.TempDir()})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, p.gitlab.Close()) })
	p.project, err = p.gitlab.CreateProject("group/app", map[string]string{"README.md": "hello\n"})
	require.NoError(b, err)
	token := gitlab.StaticToken(firerunner.Secret(p.gitlab.CreateToken("api", "create_runner")))
	api, err := gitlab.New(gitlab.Config{URL: p.gitlab.URL(), Token: token})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, api.Close()) })

	enqueuer, err := queue.NewEnqueuer()
	require.NoError(b, err)
	var work queue.Config
	p.store, work, p.database = on(b, enqueuer, p.seen.record)
	b.Cleanup(func() { require.NoError(b, p.store.Close()) })
	require.NoError(b, p.store.Update(ctx, func(tx firerunner.Tx) error {
		return tx.SaveHost(ctx, firerunner.Host{Name: "here", Driver: "fake", Controller: controllerName, VCPUs: slots, MemoryMiB: slots * 1024, Slots: slots})
	}))
	transport := &http.Transport{MaxIdleConnsPerHost: 2 * slots}
	b.Cleanup(transport.CloseIdleConnections)
	driver := fake.New(fake.Config{HTTP: &http.Client{Transport: transport}, Poll: 100 * time.Millisecond})
	b.Cleanup(func() { require.NoError(b, driver.Close()) })

	limits := firerunner.SizeLimits{Min: firerunner.Size{VCPUs: 1, MemoryMiB: 512}, Max: firerunner.Size{VCPUs: 4, MemoryMiB: 8192}}
	name, among, now := p.join(b)
	p.control, err = control.New(control.Config{
		Controller: name, Peers: among, Now: now,
		Store: p.store, GitLab: api, Driver: driver, Installation: "bench", GuestURL: p.gitlab.URL(), Logger: quiet,
		SealKeys: firerunner.NewSealKeys(token), // as serve has them: each job is sealed
		Image:    func(context.Context, string) (firerunner.Image, error) { return firerunner.Image{Name: "debian"}, nil },
		Profiles: []firerunner.Profile{{Name: firerunner.DefaultProfile, Image: "debian", Default: limits.Min, Limits: limits}},
	})
	require.NoError(b, err)
	work.Enqueuer, work.Steps, work.Concurrency, work.Sole, work.Logger = enqueuer, p.control.Steps(), slots+8, true, quiet
	work.Controller = name
	steps, err := queue.New(work)
	require.NoError(b, err)
	require.NoError(b, steps.Start(ctx))
	require.NoError(b, p.control.Start(ctx))
	b.Cleanup(func() {
		p.control.Close()
		stop, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		require.NoError(b, steps.Stop(stop))
	})

	in, err := intake.New(intake.Config{Store: p.store, SigningTokens: []firerunner.Secret{signing}, Logger: quiet})
	require.NoError(b, err)
	srv := httptest.NewServer(in)
	b.Cleanup(srv.Close)
	p.webhook = srv.URL
	return p
}

// join makes this one of a site's controllers, where there may be several: then it has a name, and each transaction is made
// under its lease.
func (p *plane) join(b *testing.B) (name string, among control.Peers, now func() time.Time) {
	store, several := p.store.(*postgres.Store)
	if !several {
		return "", control.Peers{}, time.Now
	}
	none := func(context.Context) ([]string, error) { return nil, nil }
	keeper, err := peers.Join(b.Context(), peers.Config{
		Leases: store, Registry: store, Self: firerunner.Controller{Name: controllerName, Driver: "fake"}, Holder: "bench",
		Bearers: none, Left: func(context.Context, string) (bool, error) { return false, nil }, Lost: func(err error) { b.Error(err) },
	})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, keeper.Leave(context.Background(), true)) })
	keeper.Serve()
	return controllerName, control.Peers{
		Under: func(ctx context.Context, tx firerunner.Tx) error { return keeper.Under(ctx, tx, controllerName) },
		Holds: func() bool { return keeper.Holds(controllerName) }, Leads: keeper.Leads, Away: keeper.Away,
		On: func(context.Context, string) ([]string, error) { return nil, nil },
	}, keeper.Now
}

// percentiles reports the median and the 99th percentile of durations in milliseconds.
func percentiles(b *testing.B, all []time.Duration, name string) {
	b.Helper()
	slices.Sort(all)
	at := func(percent int) float64 {
		if len(all) == 0 {
			return 0
		}
		return float64(all[min(len(all)-1, len(all)*percent/100)].Microseconds()) / 1000
	}
	b.ReportMetric(at(50), name+"-p50-ms")
	b.ReportMetric(at(99), name+"-p99-ms")
}
