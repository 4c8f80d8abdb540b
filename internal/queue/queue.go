// Package queue runs firerunner.Steps with River (https://riverqueue.com) on the store's own database, so that a step
// and the row that needs it are written in one transaction and no crash can lose it. Nothing of River is seen outside.
//
// A step may run twice, late, and at the same time as another. It is never given up: whatever goes wrong, it is tried
// again until it returns nil, at most half a minute later (retry.go).
//
// The order of wiring: NewEnqueuer, sqlite.Open with its Enqueue, Wake and Migrate, then New with the store's DB, then
// Start. Stop comes before the store's Close. For PostgreSQL the same with EnqueuePostgres, MigratePostgres and Pool.
package queue

import (
	"context"
	"database/sql"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"

	"github.com/firerunner/firerunner"
)

// Config says which steps there are and how they run.
type Config struct {
	// DB is SQLite's writing pool, or Pool is PostgreSQL's pool of readers. One of them is required.
	DB   *sql.DB
	Pool *pgxpool.Pool
	// Enqueuer is the one that the store was opened with. Required.
	Enqueuer *Enqueuer
	// Steps has what to do for every kind of step. New fails with Invalid if one is missing: a process that knows only
	// some kinds would discard the others when it takes over from one that died.
	Steps map[firerunner.StepKind]firerunner.StepFunc
	// Concurrency is how many steps run at once; 16 if zero.
	Concurrency int
	// Timeout ends a step's context; by kind, 2 minutes where it is missing.
	Timeout map[firerunner.StepKind]time.Duration
	// Sole says that no other process runs this queue (see sqlite.Hold). Then Start takes back at once what a dead
	// process was running.
	Sole bool
	// Controller is who runs it, where several may: then Start takes back what an earlier process of that name was running,
	// and Serve what one did for which this one stands in. Steps that name a controller are begun by it alone.
	Controller string
	// Ran is called after each run of a step, with what it returned, for metrics. It returns quickly.
	Ran func(step firerunner.Step, took time.Duration, err error)
	// Logger; slog.Default() if nil.
	Logger *slog.Logger
}

// Kinds are all kinds of steps.
func Kinds() []firerunner.StepKind {
	return []firerunner.StepKind{firerunner.StepReadJob, firerunner.StepDemand, firerunner.StepPlace, firerunner.StepAdvance}
}

const (
	defaultConcurrency = 16
	defaultTimeout     = 2 * time.Minute
	rescueMargin       = 30 * time.Second // above the longest timeout: a step that still runs is not taken for dead
	hardStop           = 10 * time.Second // for steps to return once their contexts have ended
	fetchCooldown      = 20 * time.Millisecond
	fetchPoll          = 250 * time.Millisecond // how late a step with NotBefore, or after Later, may be
	keepCompleted      = time.Minute
	maxAttempts        = 30000 // never reached: see retry.go
)

// Queue runs steps.
type Queue struct {
	config   Config
	river    engine
	underWay *underWay

	mu      sync.Mutex
	running bool
	lost    context.CancelFunc // ends findLost
	looking sync.WaitGroup

	serving sync.Mutex
	served  []string // the names of controllers for which steps are begun here, besides our own
}

// engine is River on one of the databases: its client, and what we ask of its tables ourselves.
type engine interface {
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
	StopAndCancel(ctx context.Context) error
	Stopped() <-chan struct{}
	Queues() *river.QueueBundle
	// takeBack makes due what a controller's processes were running, or what anybody was, and takes their leadership.
	takeBack(ctx context.Context, from taker) (taken int64, err error)
	// running returns the steps that this client has been running for so long, and again makes them due.
	running(ctx context.Context, after time.Duration) (ids []int64, err error)
	again(ctx context.Context, ids []int64) error
	count(ctx context.Context, add func(kind firerunner.StepKind, n int)) error
	ping(ctx context.Context) error
}

// New returns a queue that Start sets to work. It fails with Invalid where the Config lacks something.
func New(config Config) (*Queue, error) {
	if (config.DB == nil) == (config.Pool == nil) || config.Enqueuer == nil {
		return nil, firerunner.Errorf(firerunner.Invalid, "new queue: Enqueuer is required, and DB or Pool")
	}
	if config.Concurrency <= 0 {
		config.Concurrency = defaultConcurrency
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	steps := river.NewWorkers()
	mine := new(underWay)
	longest := defaultTimeout
	for _, kind := range Kinds() {
		do := config.Steps[kind]
		if do == nil {
			return nil, firerunner.Errorf(firerunner.Invalid, "new queue: nothing is given to do for step %q", kind)
		}
		timeout := config.Timeout[kind]
		if timeout <= 0 {
			timeout = defaultTimeout
		}
		longest = max(longest, timeout)
		river.AddWorkerArgs(steps, args{firerunner.Step{Kind: kind}}, &work{
			do: do, timeout: timeout, ran: config.Ran, logger: config.Logger, underWay: mine,
		})
	}
	for kind := range config.Steps {
		if !known(kind) {
			return nil, firerunner.Errorf(firerunner.Invalid, "new queue: there is no step %q", kind)
		}
	}
	settings := &river.Config{
		ID:                          clientID(config),
		Queues:                      queuesOf(config),
		Workers:                     steps,
		FetchCooldown:               fetchCooldown,
		FetchPollInterval:           fetchPoll,
		JobTimeout:                  longest,
		RescueStuckJobsAfter:        longest + rescueMargin,
		CompletedJobRetentionPeriod: keepCompleted,
		MaxAttempts:                 maxAttempts,
		RetryPolicy:                 retryPolicy{now: time.Now},
		Logger:                      slog.New(onlyWarnings{config.Logger.Handler()}),
	}
	q := &Queue{config: config, underWay: mine}
	config.Enqueuer.bell.hear(river.QueueDefault, controllerQueue(config.Controller))
	var err error
	if config.DB != nil {
		settings.ReindexerIndexNames = []string{} // SQLite's indexes do not bloat
		var client *river.Client[*sql.Tx]
		client, err = river.NewClient(newDriver(config.DB, config.Enqueuer.bell), settings)
		q.river = inSQLite{client, config.DB}
	} else {
		var client *river.Client[pgx.Tx]
		settings.ReindexerIndexNames = postgresReindexed()
		client, err = river.NewClient(newPostgresDriver(config.Pool, config.Enqueuer.bell), settings)
		q.river = inPostgres{client, config.Pool}
	}
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Internal, "new queue: %w", err)
	}
	return q, nil
}

// Start sets the queue to work, until Stop. ctx bounds the start only. It may be called once.
func (q *Queue) Start(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running {
		return firerunner.Errorf(firerunner.Conflict, "start the queue: it was started before")
	}
	if err := q.takeBack(ctx, taker{all: q.config.Sole, controller: q.config.Controller}); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "start the queue: take back what a dead process was running: %w", err)
	}
	if err := q.river.Start(context.WithoutCancel(ctx)); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "start the queue: %w", err)
	}
	q.running = true
	var looking context.Context
	looking, q.lost = context.WithCancel(context.WithoutCancel(ctx))
	q.looking.Go(func() { q.findLost(looking) })
	return nil
}

// Stop takes no new steps and waits for those that run, as long as ctx lives; then it ends their contexts and waits 10 s
// more. Steps that were ended so run again after the next Start. Unavailable: some did not return; they are left behind.
func (q *Queue) Stop(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.running {
		return nil
	}
	q.lost()
	q.looking.Wait()
	if err := q.river.Stop(ctx); err == nil {
		return nil
	}
	hard, cancel := context.WithTimeout(context.WithoutCancel(ctx), hardStop)
	defer cancel()
	if err := q.river.StopAndCancel(hard); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "stop the queue: some steps did not return: %w", err)
	}
	return nil
}

// Depth counts the steps that are not done, by kind: due, running, and to come. Kinds without any are there with 0.
func (q *Queue) Depth(ctx context.Context) (depth map[firerunner.StepKind]int, err error) {
	depth = map[firerunner.StepKind]int{}
	for _, kind := range Kinds() {
		depth[kind] = 0
	}
	if err := q.river.count(ctx, func(kind firerunner.StepKind, n int) { depth[kind] = n }); err != nil {
		return nil, firerunner.Errorf(firerunner.Unavailable, "count queued steps: %w", err)
	}
	return depth, nil
}

// Ping checks that the queue was started, is not stopped, and its tables answer.
func (q *Queue) Ping(ctx context.Context) error {
	q.mu.Lock()
	running := q.running
	q.mu.Unlock()
	if !running {
		return firerunner.Errorf(firerunner.Unavailable, "the queue is not running")
	}
	select {
	case <-q.river.Stopped():
		return firerunner.Errorf(firerunner.Unavailable, "the queue has stopped")
	default:
	}
	if err := q.river.ping(ctx); err != nil {
		return firerunner.Errorf(firerunner.Unavailable, "reach the queue: %w", err)
	}
	return nil
}
